"""What the reports of `initialize` and of `audit` have in common, and the comparison of two."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal

from keras_he.errors import ReportProblem, invalid
from keras_he.notes import Note
from keras_he.reports.columns import COLUMNS, Line, lines_of, number
from keras_he.reports.data import Finding, Row, ratios, spread_of
from keras_he.reports.figure import picture
from keras_he.reports.html import page
from keras_he.reports.text import WIDTH, grid, rendered, report_text


@dataclass(frozen=True, kw_only=True)
class Report(ABC):
    """What `initialize` did or `audit` measured: a row for each variable, and notes.

    `initialize` returns an `InitializationReport` and `audit` an `AuditReport`; both are `Report`s.

    Attributes:
        model: Name of the model.
        data: What it was measured on, such as `"64 drawn samples: standard normal values"`; empty
            if it was not measured.
        rows: One for each variable.
        warnings: What a person should know. Each is a text, and its `kind` tells a program.
        random_layers: Layers whose random numbers differ between backends, and with them what was
            measured after them.
        gradient_spread: Decades (factors of 10) between the largest and the smallest second moment
            of the gradient over depth; `None` if it is not known.
    """

    audited: ClassVar[bool]
    _job: ClassVar[Literal["initialization", "audit"]]
    _urgent: ClassVar[tuple[str, ...]] = ()  # kinds of warnings that stand above the table

    model: str
    data: str = ""
    rows: tuple[Row, ...]
    warnings: tuple[Note, ...] = ()
    random_layers: tuple[str, ...] = ()
    gradient_spread: float | None = None

    @property
    def kernels(self) -> tuple[Row, ...]:
        """The rows of kernels, those that no rule describes included."""
        return tuple(row for row in self.rows if row.role in ("kernel", "unknown"))

    @property
    def forward_spread(self) -> float:
        """Decades between the largest and the smallest second moment over its target.

        It is over all calls of all kernels that were measured, in training mode; 0.0 if none was.
        """
        return spread_of(self._ratios())

    def check(
        self,
        *,
        spread: float = math.log10(1.5),
        inference_spread: float = 1.0,
        skipped: bool = False,
    ) -> None:
        """Raises if the report shows a problem: for use in CI.

        Args:
            spread: See `InitializationReport.check`; an audit has no use for it.
            inference_spread: The same.
            skipped: The same.

        Raises:
            ReportProblem: With all problems.
        """
        self._raise_on([])

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain values.

        `"notes"` has the kind and the text of each warning, and `"left_kind"` of a row the kind of
        the reason in `"left"`. Texts may be reworded, kinds stay.
        """
        told = asdict(self)
        for row, plain in zip(self.rows, told["rows"], strict=True):
            plain |= {"left": str(row.left), "left_kind": row.left.kind}
        return {
            **told,
            "warnings": tuple(str(note) for note in self.warnings),
            "notes": [{"kind": note.kind, "text": str(note)} for note in self.warnings],
            "forward_spread": self.forward_spread,
            "audited": self.audited,
        }

    def to_json(self, **kwargs: Any) -> str:
        """Returns the report as JSON, NaN and infinity as strings; see `json.dumps`."""
        return json.dumps(_finite(self.to_dict()), allow_nan=False, **kwargs)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Writes one page that needs no other file: a figure, a table that sorts, and findings.

        Args:
            path: The file; it is replaced.

        Raises:
            ImportError: Without matplotlib (`python -m pip install matplotlib`).
        """
        text = page(
            self._job, self.model, self._facts(), self._lines(), self._findings(), self.warnings
        )
        Path(path).write_text(text, encoding="utf-8")

    def plot(self) -> Any:
        """Returns a matplotlib figure: second moments of signal and gradient over depth.

        The band is a factor of 10 about 1. Findings are marked.

        Raises:
            ImportError: Without matplotlib (`python -m pip install matplotlib`).
        """
        return picture(self._lines(), self.model)

    def compare(self, other: "Report") -> "Comparison":
        """Returns what changed from this report to another one of the same model.

        Findings are compared if both are reports of `audit`.

        Args:
            other: The later report.

        Raises:
            InvalidArgument: If `other` is not a report.

        Example:
            >>> import keras, keras_he
            >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(64, "relu"),
            ...                           keras.layers.Dense(1)])
            >>> _ = model.layers[-1].kernel.assign(keras.ops.zeros((64, 1)))
            >>> before = keras_he.audit(model)
            >>> _ = keras_he.initialize(model, seed=1)
            >>> [finding.verdict for finding in before.compare(keras_he.audit(model)).gone]
            ['constant']
        """
        if not isinstance(other, Report):
            raise invalid("other", "a report of `initialize` or `audit`", other)
        return Comparison(self, other)

    def __str__(self) -> str:
        urgent = [note for note in self.warnings if note.kind in self._urgent]
        others = [note for note in self.warnings if note.kind not in self._urgent]
        foot = [*self._foot(), *(f"! {text}" for text in others)]
        if self.random_layers:
            count = len(self.random_layers)
            foot.append(f"Random layers: {count}. Their masks differ between backends.")
        head = [self._head(), *(f"! {text}" for text in urgent)]
        return report_text(self._job, head, self._lines(), foot)

    @abstractmethod
    def _head(self) -> str:
        """Returns the line above the table."""

    @abstractmethod
    def _foot(self) -> list[str]:
        """Returns the paragraphs below the table, warnings aside."""

    @abstractmethod
    def _facts(self) -> list[str]:
        """Returns what a page says of the model as a whole."""

    def _findings(self) -> tuple[Finding, ...] | None:
        """Returns the findings, `None` of a report that has none to show."""
        return None

    def _lines(self) -> list[Line]:
        return lines_of(self.kernels, self._findings() or ())

    def _ratios(self) -> list[float]:
        """Returns the second moments that were measured, over their targets."""
        return ratios(self.kernels)

    def _signal(self) -> str:
        """Returns the spread of the signal as text."""
        silent = sum(row.moment == 0.0 for row in self.kernels)
        spread = f"{self.forward_spread:.2f} decades" if self._ratios() else "not measured"
        return spread + (f" (E[y²] is 0 at {silent} of {len(self.kernels)})" if silent else "")

    def _raise_on(self, problems: Sequence[str]) -> None:
        if problems:
            raise ReportProblem("The report must show no problems.\n" + "\n".join(problems))


@dataclass(frozen=True)
class Comparison:
    """What changed from one report to another; `print` it.

    Attributes:
        before: The earlier report.
        after: The later report.
    """

    before: Report
    after: Report

    @property
    def gone(self) -> tuple[Finding, ...]:
        """Findings of the earlier audit that the later one does not have."""
        return _without(self.before, self.after)

    @property
    def new(self) -> tuple[Finding, ...]:
        """Findings of the later audit that the earlier one does not have."""
        return _without(self.after, self.before)

    @property
    def kernels(self) -> tuple[tuple[Row | None, Row | None], ...]:
        """The rows of each kernel, by its path; `None` if a report does not have it."""
        before = {row.path: row for row in self.before.kernels}
        after = {row.path: row for row in self.after.kernels}
        return tuple((before.get(path), after.get(path)) for path in before | after)

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as plain values."""
        kernels = [
            {
                "path": (first or second).path,  # type: ignore[union-attr]
                "before": _values(first),
                "after": _values(second),
            }
            for first, second in self.kernels
        ]
        return {
            "before": self.before.model,
            "after": self.after.model,
            "kernels": kernels,
            "gone": [asdict(finding) for finding in self.gone],
            "new": [asdict(finding) for finding in self.new],
        }

    def __str__(self) -> str:
        titles = ["kernel", *(title for one in _COMPARED for title in (one.title, "→"))]
        rows = []
        for told in self.to_dict()["kernels"]:
            pairs = [(told["before"][one.key], told["after"][one.key]) for one in _COMPARED]
            rows.append([told["path"], *(number(value) for pair in pairs for value in pair)])
        lines = [f"✓ gone: {one.verdict}: {one.layer}" for one in self.gone]
        lines += [f"✗ new: {one.verdict}: {one.layer}: {one.evidence}" for one in self.new]
        changed = f"Signal over depth: {self.before._signal()} → {self.after._signal()}"
        findings = [one._findings() for one in (self.before, self.after)]
        if None not in findings:
            changed += f"; findings: {' → '.join(str(len(one or ())) for one in findings)}"
        return rendered([grid(titles, rows), *lines, f"{changed}."], WIDTH)


_COMPARED = [column for column in COLUMNS if column.key]


def _without(one: Report, other: Report) -> tuple[Finding, ...]:
    """Returns the findings of a report that another one does not have, if both are audits."""
    mine, theirs = one._findings(), other._findings()
    if mine is None or theirs is None:
        return ()
    there = {(finding.verdict, finding.layer) for finding in theirs}
    return tuple(one for one in mine if (one.verdict, one.layer) not in there)


def _values(row: Row | None) -> dict[str, Any]:
    """Returns what is compared of a row, by the names of the columns."""
    return {one.key: one.value(Line(row, {})) if row else None for one in _COMPARED}


def _finite(value: Any) -> Any:
    """Returns plain values with "nan" and "inf" for the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
