"""Labs: figures with sliders, one module each, shown by `lab("bradley_terry")`."""

import importlib
import pkgutil

from rlhf_course.learn.topics import unknown


def lab(name: str) -> None:
    """Show a lab. An unknown name prints the nearest ones."""
    known = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"]
    if name in known:
        importlib.import_module(f"{__name__}.{name}").LAB().show()
    else:
        print(unknown("lab", name, known))
