"""The record of a variable in an audit: what was observed of it, its values, its initializer."""

import math
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_he.audit_model.initializer_assumptions import Claim, claim
from keras_he.errors import KerasHeError
from keras_he.initializers.activation_argument import LINEAR, read_activation
from keras_he.layers.variables import ModelVariable
from keras_he.passes.tensor_origins import UNKNOWN
from keras_he.theory.activations import Activation

_FEWEST, _MOST = 1024, 4096  # values among which distinct ones are counted
_COMPARED = 16  # values by which kernels of one stream are recognized


@dataclass
class Units:
    """What an activation does to a batch.

    `dead` is the share of units that hardly move though their pre-activation moves; `None` where
    the activation acts across elements, or there are too few values. `saturated` is the share of
    values where a sigmoid is flat; 0 of any other activation.
    """

    activation: Any
    dead: float | None = None
    saturated: float = 0.0


@dataclass(eq=False, kw_only=True)
class ObservedVariable(ModelVariable):
    """A variable of an audited model. All but `claim` is known of kernels only.

    Attributes:
        order: Its place in the order of execution, `None` where it was not reached.
        moments: Second moment of the pre-activation, its bias included, at each call.
        moment: The one of these that counts, as `Row.moment`; NaN where none was observed.
        mean: Mean of the pre-activation at the first call.
        input_moment: Second moment of the input of its layer at the first call.
        output_moment: Second moment of its layer's output, where no pre-activation is observed.
        activation: The activation that precedes it, `None` for none.
        units: What the activation that follows does.
        sources: Identities of the variables of the kernels whose size its input has.
        kernels_before: Number of kernels on the longest way from the model's input.
        normalised: Whether a normalisation follows before any other kernel.
        claim: What its initializer assumes.
        expected: The activation that counts for its gain, as far as it is known.
        std: Root of the mean square of its values; NaN where one is no number.
        constant: Whether all values, or all units, are equal.
        distinct: Share of distinct values among the first that are not 0; 1 of small kernels.
        first_values: The first values over their root mean square: draws of one stream share them.
        target: The second moment that its pre-activation is to have: below 1 before a sum.
        is_output: Whether its pre-activation gives an output of the model.
        gradient: Second moments of the gradient by its pre-activation, call by call.
        energy: Squared length of that gradient for one sample.
        kernel_gradient: Second moment of the gradient by the kernel itself.
    """

    order: int | None = None
    moments: list[float] = field(default_factory=list)
    moment: float = math.nan
    mean: float = math.nan
    input_moment: float = math.nan
    output_moment: float = math.nan
    activation: Any = None
    units: Units | None = None
    sources: frozenset[int] = frozenset()
    kernels_before: int = 0
    normalised: bool = False
    claim: Claim | None = None
    expected: Activation | None = None
    std: float = math.nan
    constant: bool = False
    distinct: float = 1.0
    first_values: tuple[float, ...] = ()
    target: float = 1.0
    is_output: bool = False
    gradient: list[float] = field(default_factory=list)
    energy: float = 0.0
    kernel_gradient: float | None = None

    @property
    def frozen(self) -> bool:
        """Whether the kernel is not trained, so that its values are taken as intended."""
        return bool(self.left) and self.name != "embeddings"


def add_facts(kernel: ObservedVariable) -> None:
    """Adds to a kernel that was reached what its values and its initializer tell."""
    array = keras.ops.convert_to_numpy(keras.ops.cast(kernel.variable.value, "float32"))
    values = array.ravel()
    size = float(np.sqrt(np.mean(np.square(values, dtype="float64")))) if values.size else 0.0
    constant = bool(values.size > 1 and (values == values[0]).all())
    equal_units = array.shape[-1] > 1 and bool((array == array[..., :1]).all())
    kernel.std, kernel.constant = size, constant or equal_units
    kernel.distinct = _distinct(values) if math.isfinite(size) else 1.0
    kernel.first_values = () if constant else _first_values(values, size)
    kernel.claim = claim(kernel)
    kernel.expected = _expected(kernel.activation)


def _expected(activation: Any) -> Activation | None:
    """Returns the preceding activation, `None` where it is not known."""
    if activation is None:
        return LINEAR
    if isinstance(activation, str) and activation == UNKNOWN:
        return None
    try:
        return read_activation(activation)
    except KerasHeError:
        return None


def _distinct(values: Any) -> float:
    """Returns the share of distinct values among the first that are not 0."""
    picked = values[: 2 * _MOST]
    picked = picked[picked != 0.0][:_MOST]
    return len(np.unique(picked)) / len(picked) if len(picked) >= _FEWEST else 1.0


def _first_values(values: Any, size: float) -> tuple[float, ...]:
    """Returns the first values over their root mean square, to three digits."""
    first = values[:_COMPARED]
    # An identity matrix, and other kernels that are mostly zero, are equal by design.
    if np.count_nonzero(first) < _COMPARED or not math.isfinite(size):
        return ()
    scale = float(np.sqrt(np.mean(np.square(first, dtype="float64"))))
    return tuple(float(f"{one / scale:.2e}") for one in first) if scale else ()
