"""An environment with Colab's versions of what a lesson shows itself with."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

#: What Colab brings (torch 2.13 stands in for its own). Change the numbers when Colab changes.
PINS = {
    "torch": "2.13.0",
    "transformers": "5.15.0",
    "accelerate": "1.14.0",
    "numpy": "2.1.3",
    "matplotlib": "3.10.0",
    "ipywidgets": "7.7.1",
    "ipython": "7.34.0",
    "ipykernel": "6.17.1",
}
#: Borrowed from the environment that runs the tests, since a second torch costs a gigabyte and minutes.
BORROWED = ("torch", "torchgen", "functorch", "torch-*.dist-info")
#: How pip says that it reached no index. ("No matching distribution" alone is a wrong pin.)
NO_INDEX = ("Retrying (Retry(", "Max retries exceeded", "Could not fetch URL", "Read timed out")


class Colab:
    """The environment.

    Attributes:
        folder: where it is.
        python: its interpreter.
    """

    def __init__(self, folder):
        self.folder, self.python = folder, folder / "bin/python"

    def pip(self, *words):
        return self._python("-m", "pip", "--disable-pip-version-check", *words)

    def versions(self):
        """{name: version} of every installed distribution, as the environment's own Python finds them."""
        code = (
            "import json, importlib.metadata as m;"
            "print(json.dumps([[d.metadata['Name'].lower(), d.version] for d in m.distributions()][::-1]))"
        )
        return dict(json.loads(self._python("-c", code).stdout))

    def _python(self, *words):
        """Run it isolated (-I): neither the folder we are in nor variables of the environment bring modules in."""
        return subprocess.run([self.python, "-I", *words], capture_output=True, text=True)

    def make(self):
        """Create it; returns what pip said."""
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
        borrowed = self.folder / "borrowed"
        borrowed.mkdir(exist_ok=True)
        main = Path(sysconfig.get_path("purelib"))
        for pattern in BORROWED:
            for path in main.glob(pattern):
                if not (borrowed / path.name).exists():
                    (borrowed / path.name).symlink_to(path)
        (site,) = (self.folder / "lib").glob("python3*/site-packages")
        (site / "borrowed.pth").write_text(f"{borrowed}\n")  # comes behind what is installed here
        # In Colab `google.colab` is imported before the first cell runs.
        stand_in = site / "google/colab"
        stand_in.mkdir(parents=True, exist_ok=True)
        (stand_in / "__init__.py").write_text('"""Stands in for Colab\'s own module."""\n')
        (site / "in_colab.pth").write_text("import google.colab\n")
        wanted = ["setuptools>=77", *(f"{name}=={version}" for name, version in PINS.items())]
        return self.pip("install", "-q", "--no-compile", *wanted)
