"""The annotated reading list: `reading_list()` shows it, `readings()` gives it as data."""

import html
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from IPython.display import display


@dataclass(frozen=True)
class Reading:
    """Something to read: `part` groups the list, `key` is how answers cite it, `why` is what to read it for."""

    part: str
    key: str
    authors: str
    title: str
    address: str
    why: str


@cache
def readings() -> tuple[Reading, ...]:
    """The list in order, from where to start to whole systems."""
    text = (resources.files(__package__) / "reading.toml").read_text(encoding="utf-8")
    return tuple(Reading(**entry) for entry in tomllib.loads(text)["reading"])


def reading_list() -> None:
    """Show the reading list, a line on each."""
    parts = dict.fromkeys(reading.part for reading in readings())
    shown = "".join(
        f"<h4>{html.escape(part)}</h4><ul>{''.join(_item(r) for r in readings() if r.part == part)}</ul>"
        for part in parts
    )
    text = "\n".join(f"{r.key}. {r.title}. {r.address}\n    {r.why}" for r in readings())
    display({"text/html": shown, "text/plain": text}, raw=True)


def _item(reading: Reading) -> str:
    title = f'<a href="{html.escape(reading.address)}">{html.escape(reading.title)}</a>'
    year = reading.key.rstrip("ab").rpartition(" ")[2]
    when = f", {year}" if year.isdigit() else ""
    return f"<li>{html.escape(reading.authors)}{when}. {title}.<br>{html.escape(reading.why)}</li>"
