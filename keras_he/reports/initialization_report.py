"""The report of `initialize`: what every variable of a model got, and what was left unchanged."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from keras_he.reports.data import NOT_REACHED, Row, ratios, spread_of
from keras_he.reports.report import Report

# Kinds of warnings that `check` raises on.
_GAPS = (
    "zeros",
    "dead-input",
    "constraint",
    "not-built",
    "growing-trunk",
    "gradient",
    "zero-gradient",
)
_KEPT = 1.5  # factor by which a second moment may miss its target before the head names it
_ACCEPTED = ("lookup-table", "not-selected", "by-design")  # kinds of reasons that `check` accepts
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
        seed: The seed. With the same model, batch and weights that are left unchanged, it gives the
            same weights again on the same backend and version of the packages.
        rows: One for each variable.
        warnings: What a person should know. Each is a text, and its `kind` tells a program.
        random_layers: Layers whose random numbers differ between backends, and with them what was
            measured after them.
        gradient_spread: Decades (factors of 10) between the largest and the smallest second moment
            of the gradient over depth; `None` if it was not measured. Zeros are told in `warnings`.
        trunk_spread: Decades between the largest and the smallest second moment along a residual
            trunk, of the trunk where they differ most; `None` if there is none, or if it was not
            measured.
        written: Whether the model was changed; `False` after a dry run.
        audited: `False`.
    """

    audited = False
    _job = "initialization"
    _urgent = _GAPS

    mode: str
    law: str
    seed: int
    trunk_spread: float | None = None
    written: bool = True

    @property
    def inference_spread(self) -> float:
        """The forward spread in inference mode, on the same batch; 0.0 if it was not measured."""
        return spread_of(ratios(self.kernels, "inference"))

    def check(
        self,
        *,
        spread: float = math.log10(1.5),
        inference_spread: float = 1.0,
        skipped: bool = False,
    ) -> None:
        """Raises if a kernel was not set, or the forward signal is not kept: for use in CI.

        Kernels that `only` and `skip` left out are not looked at.

        Args:
            spread: Decades (factors of 10) that `forward_spread` may reach.
            inference_spread: Decades that `inference_spread` may reach, at least `spread`. It is
                wider, because `Dropout` changes the second moment by `1 / (1 - rate)` in training
                mode alone.
            skipped: Whether to accept kernels that are frozen, quantized, or under LoRA. Kernels
                that are constant by design are accepted anyway.

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
        spreads = {
            "forward spread": (self.forward_spread, spread),
            "forward spread in inference mode": (
                self.inference_spread,
                max(inference_spread, spread),
            ),
        }
        problems += [
            f"{name} {found:.2f} is above {limit:.2f} decades"
            for name, (found, limit) in spreads.items()
            if found > limit
        ]
        self._raise_on(problems)

    def _head(self) -> str:
        done = "initialized" if self.written else "would be initialized"
        count = sum(not row.left for row in self.kernels)
        kept = sum(row.left.kind == "by-design" for row in self.kernels)
        beside = f", {kept} kept by design" if kept else ""
        told = [
            f"{self.model}: {count} of {len(self.kernels)} kernels {done}{beside} "
            f"({self.law}, {self.mode}, seed {self.seed})"
            f"{self.data and f', measured on {self.data}'}",
            *self._shortfalls(),
        ]
        return "; ".join(told) + "."

    def _shortfalls(self) -> list[str]:
        """Returns what the first line has to say of kernels that are not as they should be."""
        told = []
        if self.mode == "fan_in" and (missed := _missed(self.kernels)):
            worst = max(missed, key=_distance)
            moment = max(worst.moments, key=lambda one: _off(worst, one))
            told.append(
                f"the signal is not kept at {len(missed)} of them, most at {worst.path}: "
                f"E[y²] = {moment:.3g} where {worst.target:.3g} was intended"
            )
        if self._ratios() and (unseen := _unobserved(self.kernels)):
            told.append(f"{unseen} of them could not be observed")
        return told

    def _foot(self) -> list[str]:
        gradient = "not measured"
        if self.gradient_spread is not None:
            gradient = f"spread {self.gradient_spread:.2f} decades"
        signal = "no kernel was set by measurement"
        if self._ratios():
            signal = f"spread {self._signal()} about the targets"
        if ratios(self.kernels, "inference"):
            signal += f", {self.inference_spread:.2f} in inference mode"
        lines = [
            f"Signal over depth: {signal} (a decade is a factor of 10).",
            f"Gradient over depth: {gradient}.",
        ]
        if self.trunk_spread is not None:
            lines.append(f"Residual trunk: spread {self.trunk_spread:.2f} decades.")
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
            facts.append(f"gradient over depth {self.gradient_spread:.2f} decades")
        if self.trunk_spread is not None:
            facts.append(f"residual trunk {self.trunk_spread:.2f} decades")
        return facts


def _off(row: Row, moment: float) -> float:
    """Returns by how much a second moment misses its target, as the size of a logarithm."""
    return abs(math.log10(moment / row.target)) if 0.0 < moment < math.inf else math.inf


def _distance(row: Row) -> float:
    """Returns by how much the second moments of a row miss their target at most, zeros aside."""
    return max((_off(row, one) for one in row.moments if one), default=0.0)


def _missed(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of kernels that were set whose second moment misses its target."""
    return [row for row in rows if not row.left and _distance(row) > math.log10(_KEPT)]


def _unobserved(rows: Sequence[Row]) -> int:
    """Returns the number of kernels that were set in layers of which nothing was measured."""
    seen = {row.path.rpartition("/")[0] for row in rows if row.moments}
    return sum(not row.left and row.path.rpartition("/")[0] not in seen for row in rows)


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
