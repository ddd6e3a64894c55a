"""The tables that experiments return and that ship with the package, in `results/`."""

import html
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

#: Where the shipped tables lie, one file each.
RESULTS = Path(__file__).resolve().parent.parent / "results"
_TIE = "\xa0"  # a space at which no line is broken


@dataclass(frozen=True)
class Table:
    """What an experiment measured.

    Attributes:
        name: "reward_model.label_noise" is the table of `rlhf_course.experiments.reward_model.label_noise`.
        settings: everything that differs from the package's defaults, the seeds included.
        rows: one dict a measurement, with the same columns throughout.
    """

    name: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def rerun(self) -> str:
        """The call that measures all of it again."""
        topic, function = self.name.split(".")
        return f"from rlhf_course.experiments import {topic}; {topic}.{function}()"

    def where(self, **values: Any) -> list[dict[str, Any]]:
        """The rows that have these values. Raises KeyError for a column that the table lacks."""
        return [row for row in self.rows if all(row[name] == value for name, value in values.items())]

    def values(self, column: str, **where: Any) -> list[Any]:
        """A column's values, in order, of the rows that have these values in others."""
        return [row[column] for row in self.where(**where)]

    def series(self, x: str, y: str, reduce: Callable[[Sequence[float]], float] = np.mean, **where: Any):
        """For a plot: the values of `x` in order of appearance, and for each the mean of `y` (or what `reduce` makes
        of it) over seeds."""
        xs = list(dict.fromkeys(self.values(x, **where)))
        return xs, [float(reduce(self.values(y, **{x: value}, **where))) for value in xs]

    def span(self, column: str, **where: Any) -> tuple[float, float]:
        """The lowest and the highest value, over seeds."""
        found = self.values(column, **where)
        if not found:
            raise ValueError(f"no row of {self.name} has {', '.join(f'{k}={v!r}' for k, v in where.items())}")
        return min(found), max(found)

    def save(self, folder: Path | str = RESULTS) -> Path:
        """Write the table as JSON, numbers to four places and a row a line, so that a change of it can be read."""
        path = Path(folder) / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = ",\n  ".join(json.dumps(_rounded(row), ensure_ascii=False) for row in self.rows)
        settings = json.dumps(self.settings, ensure_ascii=False)
        draft = path.with_suffix(".writing")
        draft.write_text(f'{{"settings": {settings},\n "rows": [\n  {rows}\n]}}\n', encoding="utf-8")
        return draft.replace(path)  # whole or not at all

    def __repr__(self) -> str:
        shown = {name: value for name, value in self.settings.items() if not isinstance(value, dict)}
        settings = ", ".join(f"{name} {value}".replace(" ", _TIE) for name, value in shown.items())
        about = textwrap.fill(f"{self.name}: {len(self.rows)} measurements ({settings}).", 100, subsequent_indent="  ")
        return f"{about}\n  Again: {self.rerun}".replace(_TIE, " ")

    def _repr_html_(self) -> str:
        columns = list(self.rows[0])
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        body = "".join(f"<tr>{''.join(f'<td>{_cell(row[name])}</td>' for name in columns)}</tr>" for row in self.rows)
        return f"<p>{html.escape(repr(self))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def shipped_results() -> list[str]:
    """The names of all shipped tables."""
    return sorted(file.stem for file in RESULTS.glob("*.json"))


def load_result(name: str) -> Table:
    """A shipped table. Raises ValueError for a name that has none, with those that have."""
    if name not in shipped_results():
        raise ValueError(f"no result {name!r} is shipped; there are {', '.join(shipped_results())}")
    return read_table(RESULTS, name)


def read_table(folder: Path | str, name: str) -> Table:
    """The table that `Table.save` wrote to a folder."""
    content = json.loads((Path(folder) / f"{name}.json").read_text(encoding="utf-8"))
    return Table(name, content["settings"], content["rows"])


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else html.escape(str(value))
