"""What is known of one kernel: its values, what its initializer claims, and what was seen of it."""

import math
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_he.audit_model.initializer_assumptions import Claim, claim
from keras_he.audit_model.observe import Sight
from keras_he.errors import KerasHeError
from keras_he.initializers.activation_argument import read_activation
from keras_he.layers.variables import maker
from keras_he.passes.tensor_origins import UNKNOWN
from keras_he.theory.activations import Activation

_FEWEST, _MOST = 1024, 4096  # values that are looked at for how many are distinct
_PRINT = 16  # values by which kernels of one stream are known


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
        is_output: Whether what it makes is an output of the model, an activation aside.
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
    is_output: bool = False
    gradient: list[float] = field(default_factory=list)
    energy: float = 0.0
    kernel_gradient: float | None = None

    @property
    def moment(self) -> float:
        """The second moment of the pre-activation at the first call; NaN where it was not seen."""
        return self.sight.moments[0] if self.sight.moments else math.nan

    @property
    def frozen(self) -> bool:
        """Whether the kernel is not trained, so that its values are taken as intended."""
        return bool(self.sight.slot.left) and self.sight.slot.name != "embeddings"

    @property
    def order(self) -> int:
        """The place in the order of execution, of those that were reached."""
        assert self.sight.order is not None
        return self.sight.order


def kernel_of(sight: Sight, target: float, *, is_output: bool) -> Kernel:
    """Returns what is known of a kernel that was reached, its gradients aside."""
    slot = sight.slot
    kernel = keras.ops.convert_to_numpy(keras.ops.cast(slot.variable.value, "float32"))
    values = kernel.ravel()
    size = float(np.sqrt(np.mean(np.square(values, dtype="float64")))) if values.size else 0.0
    constant = bool(values.size > 1 and (values == values[0]).all())
    alike = kernel.shape[-1] > 1 and bool((kernel == kernel[..., :1]).all())
    return Kernel(
        sight,
        slot.path,
        maker(slot),
        claim(slot),
        _wanted(sight),
        size,
        constant or alike,
        _distinct(values) if math.isfinite(size) else 1.0,
        () if constant else _first_values(values, size),
        target,
        is_output,
    )


def _wanted(sight: Sight) -> Activation | None:
    """Returns the activation in front of a kernel, `None` where it is not known."""
    if sight.activation is None:
        return read_activation("linear")
    if isinstance(sight.activation, str) and sight.activation == UNKNOWN:
        return None
    try:
        return read_activation(sight.activation)
    except KerasHeError:
        return None


def _distinct(values: Any) -> float:
    """Returns the share of distinct values among the first that are not 0."""
    picked = values[: 2 * _MOST]
    picked = picked[picked != 0.0][:_MOST]
    return len(np.unique(picked)) / len(picked) if len(picked) >= _FEWEST else 1.0


def _first_values(values: Any, size: float) -> tuple[float, ...]:
    """Returns the first values over their root mean square, to three digits."""
    first = values[:_PRINT]
    # An identity matrix, and other kernels that are mostly zero, are alike by design.
    if np.count_nonzero(first) < _PRINT or not math.isfinite(size):
        return ()
    scale = float(np.sqrt(np.mean(np.square(first, dtype="float64"))))
    return tuple(float(f"{one / scale:.2e}") for one in first) if scale else ()
