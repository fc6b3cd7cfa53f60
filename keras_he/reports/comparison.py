"""Two reports of one model side by side: what changed, and which findings are gone."""

from dataclasses import asdict, dataclass
from typing import Any

from keras_he.reports.data import Account, Finding, Row
from keras_he.reports.text import WIDTH, grid, number, rendered


@dataclass(frozen=True)
class Comparison:
    """What changed from one report to another; `print` it.

    Attributes:
        before: The earlier report.
        after: The later report.
    """

    before: Account
    after: Account

    @property
    def gone(self) -> tuple[Finding, ...]:
        """Findings of the earlier report that the later one does not have."""
        return _without(self.before, self.after)

    @property
    def new(self) -> tuple[Finding, ...]:
        """Findings of the later report that the earlier one does not have."""
        return _without(self.after, self.before)

    @property
    def kernels(self) -> tuple[tuple[Row | None, Row | None], ...]:
        """The rows of each kernel, by its path; `None` where a report has none."""
        before = {row.path: row for row in self.before.kernels}
        after = {row.path: row for row in self.after.kernels}
        return tuple((before.get(path), after.get(path)) for path in before | after)

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as plain values."""
        return {
            "before": self.before.model,
            "after": self.after.model,
            "kernels": [
                {
                    "path": (first or second).path,  # type: ignore[union-attr]
                    "before": _values(first),
                    "after": _values(second),
                }
                for first, second in self.kernels
            ],
            "gone": [asdict(finding) for finding in self.gone],
            "new": [asdict(finding) for finding in self.new],
        }

    def __str__(self) -> str:
        titles = ("kernel", "std", "→", "E[y²]", "→", "E[∇²]", "→")
        rows = []
        for told in self.to_dict()["kernels"]:
            first, second = told["before"], told["after"]
            cells = [number(one[key]) for key in first for one in (first, second)]
            rows.append((told["path"], *cells))
        lines = [f"✓ gone: {one.verdict}: {one.layer}" for one in self.gone]
        lines += [f"✗ new: {one.verdict}: {one.layer}: {one.evidence}" for one in self.new]
        lines.append(
            f"Signal {self.before.forward_spread:.2f} → {self.after.forward_spread:.2f} decades; "
            f"{len(self.before.findings)} → {len(self.after.findings)} findings."
        )
        return rendered([grid(titles, rows), *lines], WIDTH)


def _without(one: Account, other: Account) -> tuple[Finding, ...]:
    there = {(finding.verdict, finding.layer) for finding in other.findings}
    return tuple(one for one in one.findings if (one.verdict, one.layer) not in there)


def _values(row: Row | None) -> dict[str, float | None]:
    figures = row.figures if row else None
    return {
        "std": figures.std if figures else row.std if row else None,
        "moment": row.moments[0] if row and row.moments else None,
        "gradient": figures.gradient if figures else None,
    }
