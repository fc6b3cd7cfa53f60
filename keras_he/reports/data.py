"""What a report holds of one variable, and what an audit finds: plain values."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keras_he.notes import NO_NOTE, Note

GRADIENT_LIMIT = 1e8  # factor by which the squared length of the gradient may fall on its way back
NOT_REACHED = "analytic, not reached"  # the rule of a kernel that the forward pass did not use


@dataclass(frozen=True)
class Figures:
    """What else was measured of one kernel, at the first call of its layer.

    After `initialize` these are `std` and `gradient`. A second moment is the mean of the squares.

    Attributes:
        initializer: Type of the layer's initializer; `""` if the layer keeps none, and after
            `initialize`.
        assumed_fans: The fans that the initializer assumes, if it uses fans.
        assumed_std: The standard deviation of the initializer's law, if it is known.
        std: Root mean square of the kernel's values: their standard deviation about 0.
        mean: Mean of the pre-activation, bias included.
        dead: Share of the units of the following activation whose outputs hardly change over the
            batch although their pre-activations do. `None` if no elementwise activation follows, or
            if a unit has fewer than eight values.
        saturated: Share of the values of the following activation where a sigmoid is flat.
        gradient: Second moment of the gradient of the loss with respect to the pre-activation.
        kernel_gradient: Second moment of the gradient of the loss with respect to the kernel.
        offset: The part of its second moment that biases other than zero give to a recurrent cell:
            `forward_spread` leaves it out.
        update_ratio: Root mean square of that gradient divided by that of the kernel: the relative
            change by one step of plain gradient descent, per unit of learning rate.
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
    offset: float | None = None


@dataclass(frozen=True)
class Finding:
    """What is wrong with a model, where, and how to correct it.

    Attributes:
        verdict: `"vanishing"`, `"dead"`, `"wrong-fan"` and so on; `docs/audit.md` has them all.
        layer: Path of the layer.
        evidence: What was measured, in numbers.
        remedy: A line of code: arguments for the layer, such as `kernel_initializer="he_gelu"`, or
            a statement about `model`.
        paths: The variables that it is about.
    """

    verdict: str
    layer: str
    evidence: str
    remedy: str
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.verdict}: {self.layer}: {self.evidence}; {self.remedy}"


@dataclass(frozen=True)
class Row:
    """What was done with one variable, or what was measured of it.

    Attributes:
        path: Names of the layers that contain it, and its own name.
        layer: Type of the layer that holds it.
        shape: Its shape.
        role: `"kernel"`; `"remade"` by an initializer of its layer; `"statistic"`; `"unknown"` if
            it may be a kernel and no rule describes it; or `"other"`.
        fans: Of kernels, `(fan_in, fan_out)`: the number of connections into one output unit, and
            out of one input unit.
        activation: Of kernels that the pass used, the preceding activation; `"linear"` for none.
        gain: Of kernels that were set, the standard deviation times `sqrt(fan)`: the factor that
            compensates for the preceding activation.
        std: Of kernels that were set, the standard deviation of the new values; in an audit, the
            expected one, which follows from the fans and the preceding activation.
        rule: How its values were found; empty if it was left unchanged. `"constraint"` is a kernel
            whose constraint sets its scale.
        left: Why it was left unchanged, or not observed; empty otherwise. `left.kind` tells a
            program.
        moments: Second moment (mean of the squares) of the pre-activation at each call of the
            layer, in training mode; after `initialize` without the bias, in an audit with it. Of
            several kernels whose pre-activations cannot be observed, the last that sets the size
            has that of what their layer returns, or adds to its own input. A recurrent cell has the
            mean over what its activations are given.
        inference: After `initialize`, the same in inference mode, with the moving statistics that
            the model has then.
        target: The intended second moment; below 1 for the last kernel before a residual sum.
        clone: Of kernels that were set, `"same"` if a clone of the model reproduces these weights,
            else `"draws anew"`.
        values: Of variables that are not kernels, the (smallest, largest) value.
        figures: What else was measured of it.
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
    inference: tuple[float, ...] = ()
    target: float = 1.0
    clone: str = ""
    values: tuple[float, float] | None = None
    figures: Figures | None = None

    @property
    def moment(self) -> float | None:
        """The second moment at the first call that was given a signal.

        0.0 if all calls were given zeros, and `None` if no call was measured.
        """
        return moment_of_calls(self.moments)


def moment_of_calls(moments: Sequence[float]) -> float | None:
    """Returns the second moment that counts of several calls of a layer; see `Row.moment`."""
    return next((one for one in moments if one), moments[0] if moments else None)


def ratios(rows: Iterable[Row], name: str = "moments") -> list[float]:
    """Returns the second moments at all calls over their targets, zeros and left kernels aside.

    Args:
        rows: Rows of kernels.
        name: `"moments"`, or `"inference"`.
    """
    return [
        (moment - _offset(row, name)) / row.target
        for row in rows
        if not row.left
        for moment in getattr(row, name)
        if moment and not moment <= _offset(row, name)
    ]


def _offset(row: Row, name: str) -> float:
    """Returns the part of a row's second moments that is no signal."""
    figures = row.figures if name == "moments" else None
    return figures.offset or 0.0 if figures is not None else 0.0


def spread_of(values: Sequence[float]) -> float:
    """Returns the decades between the largest and the smallest of positive values; 0.0 of none."""
    return math.log10(max(values) / min(values)) if values else 0.0
