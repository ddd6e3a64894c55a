"""A JupyterLab on this machine alone, with a folder of its own, and a headless Chromium that looks at it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from lesson_page import LOAD, LessonPage

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "only-for-this-test"
SECONDS_TO_START = 120


@pytest.fixture(scope="module")
def chromium():
    """The browser; the tests are skipped where there is none.

    It is gone before another file's tests begin: Playwright keeps an event loop running, and others start their own.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup brings it")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine: on Debian, apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory):
    """Where pictures go: the folder that RLHF_COURSE_SCREENSHOTS names, or one that pytest forgets."""
    named = os.environ.get("RLHF_COURSE_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def jupyter(chromium, tmp_path_factory):
    """`rlhf-course lab` on a copy of the learner's notebooks; `solved/` holds the solutions. (address, folder)"""
    root = tmp_path_factory.mktemp("learner")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    shutil.copytree(ROOT / "solutions", root / "notebooks/solved")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "JUPYTER_TOKEN": TOKEN,
        "JUPYTER_CONFIG_DIR": str(root / "config"),
        "JUPYTER_DATA_DIR": str(root / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(root / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces"),
        "RLHF_COURSE_HOME": str(root / "home"),
        "RLHF_COURSE_FAST": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "rlhf_course", "lab", "--no-browser", "--port", str(port)]
    log = root / "server.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=root, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as server,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_it_answers(f"{address}/api?token={TOKEN}", server, log)
            yield address, root / "notebooks"
        finally:
            os.killpg(server.pid, signal.SIGTERM)  # the command, the server it started, and their kernels


def _wait_until_it_answers(url, server, log):
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def open_notebook(chromium, jupyter, screenshots):
    """`with open_notebook("03_reward_model.ipynb") as page:` a LessonPage in a window that knows nothing of others."""
    address, folder = jupyter

    @contextmanager
    def opened(name):
        with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
            context.set_default_timeout(LOAD)
            page = context.new_page()
            workspace = name.replace("/", "-").removesuffix(".ipynb")
            page.goto(f"{address}/lab/workspaces/{workspace}/tree/{name}?token={TOKEN}", wait_until="commit")
            yield LessonPage(page, folder / name, screenshots)

    return opened
