"""The report of `initialize`: what every variable of a model got, and what was left unchanged."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from keras_he.reports.data import NOT_REACHED, Row
from keras_he.reports.report import Report

_GAPS = ("dead-input", "not-built", "growing-trunk")  # kinds of warnings that `check` raises on
_ACCEPTED = ("lookup-table", "not-selected")  # kinds of reasons that `check` accepts
_ON_PURPOSE = ("frozen", "quantized", "lora", "integers")


@dataclass(frozen=True, kw_only=True)
class InitializationReport(Report):
    """What `initialize` did: a row for each variable, and warnings; `print` it.

    Attributes:
        model: Name of the model.
        data: What it was measured on, such as `"64 drawn samples: standard normal values"`; empty
            if it was not measured.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`.
        law: Law of the kernels, such as `"normal"`.
        seed: The seed. The same seed draws the same weights.
        rows: One for each variable.
        warnings: What a person should know. Each is a text, and its `kind` tells a program.
        random_layers: Layers whose random numbers differ between backends, and with them what was
            measured after them.
        gradient_spread: Decades (factors of 10) between the largest and the smallest second moment
            of the gradient over depth, as the fans and the activations of a plain chain predict;
            `None` if the model branches, or was not measured.
        written: Whether the model was changed; `False` after a dry run.
        audited: `False`.
    """

    audited = False
    _job = "initialization"

    mode: str
    law: str
    seed: int
    written: bool = True

    def check(self, *, spread: float = math.log10(1.5), skipped: bool = False) -> None:
        """Raises if a kernel was not set, or the forward signal is not kept: for use in CI.

        Kernels that `only` and `skip` left out are not looked at.

        Args:
            spread: Decades (factors of 10) that `forward_spread` may reach.
            skipped: Whether to accept kernels that are frozen, quantized, or under LoRA.

        Raises:
            ReportProblem: With all problems.
        """
        accepted = (*_ACCEPTED, *(_ON_PURPOSE if skipped else ()))
        problems = [
            f"{row.path} was not set: {row.left}"
            for row in self.kernels
            if row.left and row.left.kind not in accepted
        ]
        problems += [
            f"{row.path} was not reached by the forward pass"
            for row in self.kernels
            if row.rule == NOT_REACHED
        ]
        problems += [note for note in self.warnings if note.kind in _GAPS]
        if self.forward_spread > spread:
            problems.append(
                f"forward spread {self.forward_spread:.2f} is above {spread:.2f} decades"
            )
        self._raise_on(problems)

    def _head(self) -> str:
        done = "initialized" if self.written else "would be initialized"
        count = sum(not row.left for row in self.kernels)
        return (
            f"{self.model}: {count} of {len(self.kernels)} kernels {done} "
            f"({self.law}, {self.mode}, seed {self.seed})"
            f"{self.data and f', measured on {self.data}'}."
        )

    def _foot(self) -> list[str]:
        gradient = (
            f"predicted spread {self.gradient_spread:.2f} decades"
            if self.gradient_spread is not None
            else "not predicted, because the model branches or was not measured"
        )
        signal = "no kernel was set by measurement"
        if self._ratios():
            signal = f"spread {self._signal()} about the targets"
        lines = [
            f"Signal over depth: {signal} (a decade is a factor of 10).",
            f"Gradient over depth: {gradient}.",
        ]
        drawn = sum(row.clone == "draws anew" for row in self.kernels)
        if drawn:
            kernels = "the kernel" if drawn == 1 else f"the {drawn} kernels"
            lines.append(
                f"A clone of the model re-draws {kernels} marked (c) and reproduces the rest."
            )
        return lines + _others(self.rows)

    def _facts(self) -> list[str]:
        facts = [self._head().removeprefix(f"{self.model}: ").removesuffix(".")]
        facts.append(f"signal over depth {self._signal()}")
        if self.gradient_spread is not None:
            facts.append(f"gradient over depth {self.gradient_spread:.2f} decades (predicted)")
        return facts


def _others(rows: Sequence[Row]) -> list[str]:
    """Returns what is said of variables that are not kernels."""
    remade = [row for row in rows if row.role in ("remade", "statistic") and not row.left]
    lines = []
    rules = Counter(row.rule for row in remade)
    if rules:
        counts = ", ".join(f"{count} by {rule}" for rule, count in sorted(rules.items()))
        lines.append(f"Re-initialized: {counts}.")
    unusual = [
        f"{row.path} {row.values[0]:.3g} to {row.values[1]:.3g}"
        for row in remade
        if row.role == "remade" and row.values is not None and not _usual(row)
    ]
    if unusual:
        lines.append(f"Of these, with values other than 0 or 1: {', '.join(unusual)}.")
    left = Counter(row.left for row in rows if row.role not in ("kernel", "unknown") and row.left)
    for reason, count in left.items():
        lines.append(f"Left unchanged: {count} variable{'s' * (count > 1)}: {reason}.")
    return lines


def _usual(row: Row) -> bool:
    """Returns whether a bias or scale is 0 everywhere, or 1, as it nearly always is."""
    zero_gamma = row.path.endswith("gamma") and row.values == (0.0, 0.0)
    return row.values in ((0.0, 0.0), (1.0, 1.0)) and not zero_gamma
