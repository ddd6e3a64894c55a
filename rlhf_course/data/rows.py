"""A list of rows that remembers what was left out of it, and why."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


class Rows(list):
    """A plain list of dicts, with `.dropped` (reason → how many) and `.report`, one sentence about both."""

    def __init__(self, rows: Iterable[dict[str, Any]] = (), dropped: Mapping[str, int] | None = None):
        super().__init__(rows)
        self.dropped = Counter(dropped)

    @property
    def report(self) -> str:
        """For example "2,307 of 2,312 rows kept; dropped: 5 (the prompts differ)"."""
        total = len(self) + sum(self.dropped.values())
        kept = f"{len(self):,} of {total:,} rows kept"
        reasons = ", ".join(f"{count:,} ({reason})" for reason, count in sorted(self.dropped.items()) if count)
        return f"{kept}; dropped: {reasons}" if reasons else kept


def dropped_before(rows: Iterable[dict[str, Any]]) -> Counter:
    """What an earlier step dropped from `rows`; nothing for a list or a datasets.Dataset."""
    return Counter(getattr(rows, "dropped", None))
