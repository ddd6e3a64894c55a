"""The course's claims ledger: every empirical claim, where it is made, what measures it, and what was measured.

A claim in `claims.toml` reads

    [[claim]]
    id = "ppo.no_price"
    lessons = ["05"]
    says = "With no price on the KL, PPO ends with less gold than a healthy run."
    source = "Gao et al. 2022"                  # left out where the claim is the course's own
    table = "ppo.broken_runs"
    measure = "last('gold', run='β = 0') - last('gold', run='healthy')"
    relation = "< 0"                            # for every seed; `over = "mean"`: for their mean
    measured = [-4.58, -3.71, -1.35]            # for each seed of the table, as `rlhf-course claims --update` writes it
    again = [-4.12, -3.9, -1.6]                 # the same seeds with other rounding, every time they were measured so
    small = "< -0.5"                            # what a new run of one seed, in small, must show; see `small.py`

`measure` is worked out on the rows of one seed. It may call `mean`, `first`, `last`, `lowest`, `highest` and `count`,
each with a column and values that other columns must have, and `sqrt`, `log`, `abs`, `min`, `max`.
"""

import math
import operator
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rlhf_course.experiments.table import Table, load_result, read_table

LEDGER = Path(__file__).with_name("claims.toml")
_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Claim:
    """One claim of the ledger; the module's docstring shows how it is written.

    Attributes:
        again: of the same seeds, each time they were measured anew; the relation must hold every time. Empty where that
            was not done.
        over: "every seed", in each of which the relation must hold, or "mean", their mean, of which it must.
        small: the relation in a small run of one seed (`small.run_small`), which a test makes; None where only full
            runs show the claim.
    """

    id: str
    lessons: tuple[str, ...]
    says: str
    table: str
    measure: str
    relation: str
    measured: tuple[float, ...] = ()
    again: tuple[float, ...] = ()
    source: str | None = None
    over: str = "every seed"
    small: str | None = None

    def values(self, table: Table | None = None) -> list[float]:
        """What the claim is about, for each seed of a table; the shipped one if left out."""
        table = table or load_result(self.table)
        return [measure(self.measure, table, seed) for seed in table.settings["seeds"]]

    def holds(self, values: list[float] | tuple[float, ...], relation: str | None = None) -> bool:
        """Whether these values, one a seed, have the relation."""
        sign, bound = (relation or self.relation).split()
        tested = [sum(values) / len(values)] if self.over == "mean" else values
        return all(_RELATIONS[sign](value, float(bound)) for value in tested)


@cache
def claims() -> dict[str, Claim]:
    """Every claim by its id, in the ledger's order."""
    rows = tomllib.loads(LEDGER.read_text(encoding="utf-8"))["claim"]
    found = [
        Claim(**row | {name: tuple(row.get(name, ())) for name in ("lessons", "measured", "again")}) for row in rows
    ]
    return {claim.id: claim for claim in found}


def measure(expression: str, table: Table, seed: int) -> float:
    """The value of a claim's `measure` on one seed's rows.

    Raises:
        ValueError: where no row is as the expression wants it.
    """

    def of(pick: Callable[[list], float]) -> Callable[..., float]:
        def function(column: str, **where: Any) -> float:
            values = [value for value in table.values(column, seed=seed, **where) if value is not None]
            if not values:
                raise ValueError(f"{table.name} has no row of seed {seed} for {column!r} and {where} in {expression!r}")
            return pick(values)

        return function

    names = {
        "mean": of(lambda values: sum(values) / len(values)),
        "first": of(lambda values: values[0]),
        "last": of(lambda values: values[-1]),
        "lowest": of(min),
        "highest": of(max),
        "count": of(len),
        **{name: getattr(math, name) for name in ("sqrt", "log", "exp")},
        **{"abs": abs, "min": min, "max": max},
    }
    return round(float(eval(expression, {"__builtins__": {}}, names)), 4)  # the ledger's text, no one else's


def update(text: str, folder: Path | None = None) -> str:
    """The ledger's text with `measured` as the shipped tables have it now.

    Args:
        folder: of tables measured again (`rlhf-course reproduce`): their values join those of `again` instead.
    """
    field = "again" if folder else "measured"
    lines, found = [], None
    for line in text.splitlines():
        if line.startswith("id = "):
            claim = claims()[tomllib.loads(line)["id"]]
            found = None if folder and not (folder / f"{claim.table}.json").is_file() else claim
        if found and line.startswith(f"{field} = "):
            continue
        lines.append(line)
        if found and line.startswith("measured = " if folder else "relation = "):
            values = [f"{value:g}" for value in found.values(read_table(folder, found.table) if folder else None)]
            if folder:
                before = [f"{value:g}" for value in found.again]
                values = before if before[-len(values) :] == values else before + values
            lines.append(f"{field} = [{', '.join(values)}]")
    return "\n".join(lines) + "\n"
