"""The record of a training run: a table of metrics that can be read, plotted and saved."""

import csv
import html
from collections.abc import Iterator
from pathlib import Path


class History:
    """One row per log line. Training metrics and evaluations (`eval_…`) of the same step share a row.

    `history["loss"]` is a column, `history.rows` the rows, `history.last("loss")` the newest value.
    """

    def __init__(self, rows: list[dict[str, float]] | None = None):
        self.rows = [dict(row) for row in rows or []]

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Add metrics of a step; a step has one row."""
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step})
        self.rows[-1].update(metrics)

    @property
    def columns(self) -> list[str]:
        """Every metric's name, in the order of first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __getitem__(self, name: str) -> list[float]:
        """A metric's values, in order, from the rows that have it. Raises KeyError naming those there are."""
        if name not in self.columns:
            raise KeyError(f"no metric is called {name!r}; there are {', '.join(self.columns) or 'none yet'}")
        return [row[name] for row in self.rows if name in row]

    def steps(self, name: str) -> list[int]:
        """The steps at which a metric was logged."""
        return [row["step"] for row in self.rows if name in row]

    def last(self, name: str) -> float:
        """A metric's newest value."""
        return self[name][-1]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    def to_csv(self, path: str | Path) -> Path:
        """Write the table; a metric that a row lacks is left empty."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        return path

    def plot(self, *names: str):
        """Draw metrics over steps, one panel each (all of them without names). Returns the matplotlib figure."""
        from matplotlib.figure import Figure

        names = names or tuple(name for name in self.columns if name not in ("step", "epoch", "learning_rate"))
        if not names:
            raise ValueError("the history is empty: train first")
        width = min(len(names), 3)
        height = -(-len(names) // width)
        figure = Figure(figsize=(4 * width, 2.8 * height), layout="constrained")
        for i, name in enumerate(names):
            axes = figure.add_subplot(height, width, i + 1)
            axes.plot(self.steps(name), self[name], marker="." if len(self[name]) < 30 else None)
            axes.set(title=name, xlabel="step")
        return figure

    def __repr__(self) -> str:
        if not self.rows:
            return "History(empty)"
        latest = ", ".join(f"{name} {value:.4g}" for name, value in self.rows[-1].items())
        return f"History({len(self)} rows; last: {latest})"

    def _repr_html_(self) -> str:
        """A table for notebooks: at most ten rows, spread over the run."""
        count = min(len(self.rows), 10)
        shown = [self.rows[round(i * (len(self.rows) - 1) / max(count - 1, 1))] for i in range(count)]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        cells = [
            "".join(f"<td>{row[name]:.4g}</td>" if name in row else "<td></td>" for name in self.columns)
            for row in shown
        ]
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
