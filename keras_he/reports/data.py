"""What a report holds: a row for each variable, findings, and what a person should know.

All of it is plain values, so it can be compared, kept as JSON, and read without the model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from keras_he.errors import ReportProblem
from keras_he.notes import NO_NOTE, Note

# What an audit can find, in the order in which findings are listed.
VERDICTS = (
    "vanishing",
    "exploding",
    "dead",
    "saturated",
    "constant",
    "nonfinite",
    "identical",
    "wrong-fan",
    "wrong-gain",
    "wrong-slope",
    "unsafe-depth",
    "misplaced",
    "low-precision",
    "unscaled-residual",
)

NOT_REACHED = "analytic, not reached"  # the rule of a kernel that the pass did not come by
_GAPS = ("dead-input", "not-built", "growing-trunk")  # warnings that `check` raises
_ON_PURPOSE = ("not-selected", "frozen", "quantized", "lora", "integers")


@dataclass(frozen=True)
class Figures:
    """What an audit measured of one kernel, at the first call of its layer where it has several.

    Attributes:
        initializer: Type of the layer's initializer, `""` where it keeps none.
        assumed_fans: The fans that the initializer counts, of those that count any.
        assumed_std: The standard deviation that it draws with, where that is known.
        std: Standard deviation of the kernel as it is, about 0: the root of its mean square.
        mean: Mean of the pre-activation, its bias included.
        dead: Share of the units behind it that hardly move while their pre-activation does; `None`
            where no activation that acts element by element stands there, or a unit has fewer than
            eight values.
        saturated: Share of the values behind it where a sigmoid is flat.
        gradient: Second moment of the loss's gradient by the pre-activation.
        kernel_gradient: Second moment of the loss's gradient by the kernel.
        update_ratio: Root mean square of that gradient over the kernel's: what one step of plain
            gradient descent changes, per unit of learning rate.
    """

    initializer: str
    assumed_fans: tuple[float, float] | None
    assumed_std: float | None
    std: float
    mean: float | None = None
    dead: float | None = None
    saturated: float | None = None
    gradient: float | None = None
    kernel_gradient: float | None = None
    update_ratio: float | None = None


@dataclass(frozen=True)
class Finding:
    """What is wrong with a model, where, and how to mend it.

    Attributes:
        verdict: `"vanishing"`, `"dead"`, `"wrong-fan"` and so on; all are in `docs/audit.md`.
        layer: Path of the layer.
        evidence: What was seen, in numbers.
        remedy: A line of code: arguments for the layer, such as `kernel_initializer="he_gelu"`, or
            a statement about `model`.
        paths: The variables that it is about.
    """

    verdict: str
    layer: str
    evidence: str
    remedy: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """What happened to one variable, or what was seen of it.

    Attributes:
        path: Names of the layers on the way to it, and its own.
        layer: Type of the layer that holds it.
        shape: Its shape.
        role: `"kernel"`, `"remade"` by an initializer of its layer, `"statistic"`, `"unknown"`
            where it may be a kernel and no rule says so, or `"other"`.
        fans: Connections into an output and out of an input unit, of kernels.
        activation: The activation in front, of kernels that the pass came by; `"linear"` for none.
        gain: Factor over `1 / sqrt(fan)`, of kernels that were set.
        std: Standard deviation that its values got, of kernels that were set; in an audit that
            which the fans and the activation ask for.
        rule: How its values were found; empty where it was left.
        left: Why it was left as it is; empty where it was not.
        moments: Second moment of the pre-activation without its bias, at each call of the layer.
        target: The second moment that was asked for; below 1 for the last kernel before a sum.
        clone: Of kernels that were set, `"same"` if a clone of the model has these weights again,
            else `"draws anew"`.
        values: The range of what is no kernel, as (least, largest).
        figures: What an audit measured of it.
    """

    path: str
    layer: str
    shape: tuple[int, ...]
    role: str
    fans: tuple[float, float] | None = None
    activation: str | None = None
    gain: float | None = None
    std: float | None = None
    rule: str = ""
    left: Note = NO_NOTE
    moments: tuple[float, ...] = ()
    target: float = 1.0
    clone: str = ""
    values: tuple[float, float] | None = None
    figures: Figures | None = None


@dataclass(frozen=True)
class Account:
    """The values of a report, which `keras_he.Report` explains one by one."""

    model: str
    mode: str
    law: str
    seed: int
    rows: tuple[Row, ...]
    warnings: tuple[Note, ...] = ()
    random_layers: tuple[str, ...] = ()
    gradient_spread: float | None = None
    written: bool = True
    findings: tuple[Finding, ...] = ()
    end_to_end: float | None = None
    depth_growth: float | None = None
    audited: bool = False

    @property
    def kernels(self) -> tuple[Row, ...]:
        """The rows of kernels, those among them that no rule knows."""
        return tuple(row for row in self.rows if row.role in ("kernel", "unknown"))

    @property
    def forward_spread(self) -> float:
        """Decades between the largest and the smallest second moment over its target.

        Of the first calls of the kernels that were measured; 0.0 where there are none.
        """
        ratios = [_first(row) / row.target for row in self.kernels if _first(row)]
        return math.log10(max(ratios) / min(ratios)) if ratios else 0.0

    def check(self, *, spread: float = math.log10(1.5), skipped: bool = False) -> None:
        """Raises where a kernel was not set, or the forward signal is not kept: for use in CI.

        Of an audit it raises where there are findings.

        Args:
            spread: Decades that `forward_spread` may reach.
            skipped: Whether kernels are accepted that were left on purpose: by `only` and `skip`,
                frozen, quantized, or under LoRA.

        Raises:
            ReportProblem: With all that was missed.
        """
        missed = (
            [_told(finding) for finding in self.findings]
            if self.audited
            else self._gaps(spread, skipped)
        )
        if missed:
            raise ReportProblem("The report must show no gaps.\n" + "\n".join(missed))

    def _gaps(self, spread: float, skipped: bool) -> list[str]:
        accepted = ("lookup-table", *(_ON_PURPOSE if skipped else ()))
        missed = [
            f"{row.path} was not set: {row.left}"
            for row in self.kernels
            if row.left and row.left.kind not in accepted
        ]
        missed += [
            f"{row.path} was not reached by the pass"
            for row in self.kernels
            if row.rule == NOT_REACHED
        ]
        missed += [text for text in self.warnings if text.kind in _GAPS]
        if self.forward_spread > spread:
            missed.append(f"forward spread {self.forward_spread:.2f} is above {spread:.2f} decades")
        return missed


def _told(finding: Finding) -> str:
    return f"{finding.verdict}: {finding.layer}: {finding.evidence}; {finding.remedy}"


def gradient_spread(factors: Sequence[float]) -> float:
    """Returns the decades between the extremes of a gradient that these factors multiply in turn.

    Args:
        factors: By which each kernel changes the gradient's second moment, in any order of a chain.
    """
    level, levels = 0.0, [0.0]
    for factor in factors:
        level += math.log10(factor)
        levels.append(level)
    return max(levels) - min(levels)


def _first(row: Row) -> float:
    """Returns the second moment at the first call that was given a signal; 0 of no such."""
    return next((one for one in row.moments if one), 0.0) if row.rule == "measured" else 0.0
