"""The record of a variable in an audit: what was observed of it, its values, its initializer."""

import math
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_he.audit_model.initializer_assumptions import Claim, claim
from keras_he.errors import KerasHeError
from keras_he.initializers.activation_argument import LINEAR, read_activation
from keras_he.layers.constants import drawn_size
from keras_he.layers.variables import ModelVariable
from keras_he.notes import NO_NOTE, Note
from keras_he.passes.tensor_origins import UNKNOWN
from keras_he.theory.activations import Activation

_FEWEST, _MOST = 1024, 4096  # values among which distinct ones are counted
_DRAWN = 1.5  # by which a kernel's size may miss that of its initializer, sampling aside
_RARE = 6.0  # standard errors of that size
_COMPARED = 16  # values by which kernels of one stream are recognized


@dataclass
class Units:
    """What an activation does to a batch.

    `layer` is the path of the layer that applies it. `dead` is the share of units that hardly move
    though their pre-activation moves; `None` where the activation acts across elements, or there
    are too few values. `saturated` is the share of values where a sigmoid is flat; 0 of any other
    activation.
    """

    activation: Any
    layer: str
    dead: float | None = None
    saturated: float = 0.0


@dataclass(eq=False, kw_only=True)
class ObservedVariable(ModelVariable):
    """A variable of an audited model. All but `claim` is known of kernels only.

    Attributes:
        order: Its place in the order of execution, `None` where it was not reached.
        seen: Whether its pre-activation was measured, or what a layer of several kernels makes of
            them: that figure stands with the last of them.
        moments: Second moment of the pre-activation, its bias included, at each call. Of a layer
            that shows none it is that of what it returns, or adds to its own input; of a recurrent
            cell the mean over what its activations are given.
        moment: The one of these that counts, as `Row.moment`; NaN where none was observed.
        offset: Of a recurrent cell, the part of its moments that its biases give.
        mean: Mean of the pre-activation at the first call.
        input_moment: Second moment of the input of its layer at the first call.
        output_moment: Second moment of the output of a recurrent layer or a table.
        activation: The activation that precedes it, `None` for none.
        units: What the activation that follows does.
        sources: Identities of the variables of the kernels whose size its input has.
        kernels_before: Number of kernels on the longest way from the model's input.
        normalised: Whether a normalisation follows before any other kernel.
        stands_for_layer: Whether its figure is that of what a user's layer returns.
        claim: What its initializer assumes.
        expected: The activation that counts for its gain, as far as it is known.
        std: Root of the mean square of its values; NaN where one is no number.
        constant: Whether all values, or all units, are equal.
        chosen: Which constants it has by its author's choice, empty if it has none.
        silenced: Whether its pre-activation is zero by such a choice, its own or an earlier one.
        distinct: Share of distinct values among the first that are not 0; 1 of small kernels.
        first_values: The first values over their root mean square: draws of one stream share them.
        target: The second moment that its pre-activation is to have: below 1 before a sum.
        is_output: Whether no other kernel stands between it and an output of the model.
        intended: Of these, the factor on the second moment that its initializer takes off on
            purpose: 1 or less.
        gradient: Second moments of the gradient by its pre-activation, call by call.
        energy: Squared length of that gradient for one sample.
        kernel_gradient: Second moment of the gradient by the kernel itself.
        stopped_by_design: Whether it gets no gradient because of zeros of the model's author.
    """

    order: int | None = None
    seen: bool = False
    moments: list[float] = field(default_factory=list)
    moment: float = math.nan
    offset: float = 0.0
    mean: float = math.nan
    input_moment: float = math.nan
    output_moment: float = math.nan
    activation: Any = None
    units: Units | None = None
    sources: frozenset[int] = frozenset()
    kernels_before: int = 0
    normalised: bool = False
    stands_for_layer: bool = False
    claim: Claim | None = None
    expected: Activation | None = None
    std: float = math.nan
    constant: bool = False
    chosen: Note = NO_NOTE
    silenced: bool = False
    distinct: float = 1.0
    first_values: tuple[float, ...] = ()
    target: float = 1.0
    is_output: bool = False
    intended: float = 1.0
    gradient: list[float] = field(default_factory=list)
    energy: float = 0.0
    kernel_gradient: float | None = None
    stopped_by_design: bool = False

    @property
    def is_table(self) -> bool:
        """Whether it is a lookup table, whose input is no signal."""
        return self.name == "embeddings"

    @property
    def signal(self) -> float:
        """Its second moment without what biases give to a recurrent cell."""
        return self.moment - self.offset

    @property
    def aim(self) -> float:
        """The second moment that a report compares its own with: its target, or 1 if nearer."""
        moment, target = self.moment, self.target
        if 0.0 < moment < math.inf and abs(math.log(moment / target)) < abs(math.log(moment)):
            return target * self.intended
        return self.intended

    @property
    def gets_no_gradient(self) -> bool:
        """Whether it gets a signal that is not zero, and a gradient that is exactly 0."""
        if self.left or self.chosen or self.silenced or self.moment == 0.0 or not self.seen:
            return False
        return self.kernel_gradient == 0.0 and not any(self.gradient)

    @property
    def as_drawn(self) -> bool:
        """Whether it has the size that its initializer is known to draw."""
        return self.is_as_large_as(self.claim.std if self.claim is not None else None)

    def is_as_large_as(self, drawn: float | None) -> bool:
        """Returns whether it has the size of draws of a standard deviation, sampling aside."""
        if not drawn or not self.std > 0.0:
            return False
        allowed = math.log(_DRAWN) + _RARE / math.sqrt(2 * math.prod(self.shape))
        return abs(math.log(self.std / drawn)) < allowed

    @property
    def frozen(self) -> bool:
        """Whether the kernel is not trained, so that its values are taken as intended."""
        return bool(self.left) and not self.is_table


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
    kernel.expected = None if kernel.is_table else _expected(kernel.activation)
    kernel.intended = _intended(kernel)


def _intended(kernel: ObservedVariable) -> float:
    """Returns the factor that the initializer of a last kernel takes off its second moment.

    Of an initializer that uses fans it is the gain alone that its author chose.
    """
    if not kernel.is_output or kernel.fans is None:
        return 1.0
    claim = kernel.claim
    drawn = claim.std if claim is not None and claim.std is not None else drawn_size(kernel)
    if not kernel.is_as_large_as(drawn):
        return 1.0
    preceding = kernel.expected.moments.signal if kernel.expected is not None else 1.0
    gained = kernel.std**2 * kernel.fans.fan_in
    if claim is not None and claim.fans is not None and claim.gain is not None:
        gained = claim.gain**2
    return min(gained * preceding, 1.0)


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
