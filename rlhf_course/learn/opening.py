"""How every lesson begins: a badge that opens it in Colab, and a cell that installs the course there."""

from rlhf_course import REPOSITORY


def badge(notebook: str) -> str:
    """The Colab badge of `notebooks/<notebook>.ipynb`, as Markdown."""
    path = REPOSITORY.removeprefix("https://github.com/")
    address = f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{notebook}.ipynb"
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"


#: The first code cell of every lesson. In Colab it installs what is missing, once; what is there, torch, numpy and
#: ipywidgets above all, stays as it is. Anywhere else it does nothing.
SETUP = f"""\
# In Colab this installs the course, once. Anywhere else it does nothing.
import importlib.util
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("rlhf_course") is None:
    %pip install -q --upgrade-strategy only-if-needed git+{REPOSITORY}"""
