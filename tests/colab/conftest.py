"""The environment, made once in build/colab and kept there, and the course as a wheel."""

import hashlib
import shutil
import sys
from pathlib import Path

import colab_environment
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def colab():
    """The environment, without the course in it."""
    recipe = hashlib.sha256(Path(colab_environment.__file__).read_bytes() + sys.version.encode()).hexdigest()[:12]
    environment = colab_environment.Colab(ROOT / "build/colab" / recipe)
    done = environment.folder / "done"
    if not done.exists():
        made = environment.make()
        if made.returncode and any(sign in made.stderr for sign in colab_environment.NO_INDEX):
            pytest.skip(f"the package index cannot be reached: {made.stderr.strip().splitlines()[-1]}")
        assert made.returncode == 0, made.stderr
        done.touch()
    return environment


@pytest.fixture(scope="session")
def wheel(colab, tmp_path_factory):
    """The course as a wheel, which stands in for the repository's address in the set-up cell."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "rlhf_course", source / "rlhf_course", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    built = colab.pip("wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path
