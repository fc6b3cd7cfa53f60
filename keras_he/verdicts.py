"""The verdicts of an audit, the thresholds that they have, and what they are given to judge."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_he.claims import Claim
from keras_he.errors import did_you_mean, invalid
from keras_he.keras_activations import Activation
from keras_he.observe import Sight
from keras_he.rows import Finding
from keras_he.structure import Slot

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

# Each with its reason in docs/audit.md.
THRESHOLDS: dict[str, float] = {
    "signal": 1e3,
    "gradient": 1e8,
    "dead": 0.9,
    "saturated": 0.5,
    "fan": 1.5,
    "gain": 1.03,
    "slope": 0.01,
    "depth": 10.0,
    "distinct": 0.2,
    "residual": 8.0,
}


def checked_thresholds(given: Any) -> dict[str, float]:
    """Returns all thresholds, those that were given among them."""
    if given is None:
        return dict(THRESHOLDS)
    if not isinstance(given, Mapping):
        raise invalid("thresholds", "a dict from names to numbers above 0", given)
    for name, value in given.items():
        if name not in THRESHOLDS:
            known = ", ".join(THRESHOLDS)
            raise invalid("thresholds", f"of {known}", name, did_you_mean(name, THRESHOLDS))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise invalid(f"thresholds[{name!r}]", "a number above 0", value)
    return {**THRESHOLDS, **{name: float(value) for name, value in given.items()}}


@dataclass(eq=False)
class Kernel:
    """One kernel, all that is known of it.

    Attributes:
        sight: What was seen of it at work.
        path: Path of the variable.
        layer: Path of the layer whose arguments made it.
        claim: What its initializer assumes.
        wanted: The activation that counts for its gain, as far as it is known.
        std: Root of the mean square of its values; NaN where one is no number.
        constant: Whether all values are equal.
        distinct: Share of distinct values among the first that are not 0; 1 of small kernels.
        print: The first values over their root mean square, by which draws of one stream are known.
        target: The second moment that its pre-activation is to have: below 1 in front of a sum.
        gradient: Second moments of the gradient by its pre-activation, call by call.
        energy: Squared length of that gradient, a sample.
        kernel_gradient: Second moment of the gradient by the kernel itself.
    """

    sight: Sight
    path: str
    layer: str
    claim: Claim | None
    wanted: Activation | None
    std: float
    constant: bool
    distinct: float
    print: tuple[float, ...]
    target: float = 1.0
    gradient: list[float] = field(default_factory=list)
    energy: float = 0.0
    kernel_gradient: float | None = None

    @property
    def moment(self) -> float:
        """The second moment of the pre-activation at the first call; NaN where it was not seen."""
        return self.sight.moments[0] if self.sight.moments else math.nan

    @property
    def order(self) -> int:
        """The place in the order of execution, of those that were reached."""
        assert self.sight.order is not None
        return self.sight.order


@dataclass
class Subject:
    """A model as the checks see it.

    Attributes:
        kernels: Those that were reached, in order of execution.
        others: Variables that are no kernels, and what their initializers assume.
        biases: The biases among them.
        broken: Layers that make NaN or infinity of finite numbers.
        inputs_finite: Whether the batch is finite.
        bad_weights: Slots with values that are not finite.
        runs: What was seen of trunks.
        data: How the data are written in a remedy, `""` or `", data"`.
        thresholds: See `THRESHOLDS`.
    """

    kernels: list[Kernel]
    others: list[tuple[Slot, Claim]]
    biases: list[Slot]
    broken: list[str]
    inputs_finite: bool
    bad_weights: list[Slot]
    runs: list[Any]
    data: str
    thresholds: dict[str, float]

    def initialize(self, *paths: str) -> str:
        """Returns the line that initializes the model, or some of its variables."""
        only = ""
        if paths:
            listed = ", ".join(f'"{path}"' for path in paths)
            only = f", only=[{listed}]"
        return f"keras_he.initialize(model{self.data}{only})"

    def finding(self, verdict: str, kernel: Kernel, evidence: str, remedy: str) -> Finding:
        """Returns a finding about a kernel."""
        return Finding(verdict, kernel.layer, evidence, remedy, (kernel.path,))
