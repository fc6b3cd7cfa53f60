"""The record of a variable in a plan: how its new values are made, and what was measured of it."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import keras

from keras_he.backend.tensors import mean_square, number
from keras_he.initializers.kaiming import CLASSES, Kaiming, KaimingOrthogonal
from keras_he.layers.variables import ModelVariable
from keras_he.sampling.laws import LawName
from keras_he.theory.kernel_geometry import Mode

JOINTLY = "measured with its layer"  # the rule of kernels whose pre-activations cannot be observed
_ROUNDING = 1e-5  # by which equal values differ, over the largest
_ALIKE = 1e-2  # the same of half precision, and of constraints, which add an epsilon


class Settings(NamedTuple):
    """What holds for every kernel of a plan."""

    law: LawName
    mode: Mode


@dataclass(eq=False, kw_only=True)
class PlannedVariable(ModelVariable):
    """A variable of the plan.

    Attributes:
        seed: Seed of its values.
        is_set: Whether it is a kernel that gets new values.
        layout: Its layout, where it lies on several devices.
        rule: How its values are found: `"measured"`, `JOINTLY`, `"analytic"`, `"orthogonal per
            gate"`, the name of an initializer of its layer, `"batch statistics"`, or `"constraint"`
            of a kernel whose constraint sets its scale.
        gain: Of kernels, the factor over `1 / sqrt(fan)`.
        std: The standard deviation of the values of a kernel that is set.
        target: The second moment that the pre-activation of a kernel is to have: 1, or `1 / n`
            before a sum, `1 / n²` where an activation ends the branch.
        activation: The activation that precedes it, `None` where there is none.
        moments: The second moment of the pre-activation at each call, in training mode.
        inference: The same in inference mode.
        gradient: The second moment of the gradient by the pre-activation, at the first call.
        chained: Whether a later call of its layer is given what an earlier call has made.
        has_offset: Whether its layer returns anything with kernels of zeros, such as its own input.
        value: The new values of a variable that is no kernel.
        kernels_before: The number of kernels on the longest way from the input to its layer.
        input_size: The number of elements of the inputs of its layer.
        output_shape: Shape of the pre-activation.
        order: Its place in the order of execution, `None` where the pass did not reach it.
        placed: Whether the pass holds its final values, in place of those of gain 1.
    """

    seed: int = 0
    is_set: bool = False
    layout: Any = None
    rule: str = ""
    gain: float | None = None
    std: float | None = None
    target: float = 1.0
    activation: Any = None
    moments: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    gradient: float | None = None
    chained: bool = False
    has_offset: bool = False
    value: Any = None
    kernels_before: int = 0
    input_size: int = 0
    output_shape: tuple[int, ...] = ()
    order: int | None = None
    placed: bool = False
    _made: tuple[tuple[Settings, float, bool], Kaiming] | None = None

    @property
    def recurrent(self) -> bool:
        """Whether it carries a recurrent layer's state to its next step."""
        return self.name == "recurrent_kernel"

    @cached_property
    def adds_bias(self) -> bool:
        """Whether it is a bias that a layer adds to a pre-activation that can be observed."""
        observed = not self.unseen and callable(getattr(self.layer, "activation", None))
        is_bias = self.name == "bias" and self.role != "kernel"
        return is_bias and observed and self.beside_kernel

    @property
    def planned(self) -> Any:
        """The values of a variable that is no kernel, as they will be."""
        return self.variable.value if self.value is None else self.value

    def beside(self, value: Any) -> Any:
        """Returns what this bias adds to a pre-activation: 0.0 where it is 0 everywhere."""
        if self.value_range == (0.0, 0.0):
            return 0.0
        added = keras.ops.cast(self.planned, value.dtype)
        first = getattr(self.layer, "data_format", None) == "channels_first"
        if first and len(value.shape) > 2:
            added = keras.ops.reshape(added, (-1, *[1] * (len(value.shape) - 2)))
        return added

    def forget(self) -> None:
        """Takes back what a pass has found."""
        self.rule, self.gain, self.target, self.activation = "", None, 1.0, None
        self.order, self.chained, self.placed = None, False, False
        self.moments.clear()

    def initializer(self, settings: Settings, gain: float, *, seeded: bool = True) -> Kaiming:
        """Returns the initializer of this kernel with a gain; the same one for the same gain."""
        asked = (settings, gain, seeded)
        if self._made is None or self._made[0] != asked:
            cls = KaimingOrthogonal if self.recurrent else CLASSES[settings.law]
            seed = self.seed if seeded else None
            self._made = (asked, cls(mode=settings.mode, gain=gain, seed=seed, **self.arguments))
        return self._made[1]

    def draw(self, settings: Settings, gain: float) -> Any:
        """Returns the kernel's values under a gain, as its constraint leaves them."""
        values = self._drawn(settings, gain)
        if self.constraint is None:
            return values
        kept = keras.ops.cast(self.constraint(values), values.dtype)
        return values if self._equal(kept, values) else kept

    def _drawn(self, settings: Settings, gain: float) -> Any:
        initializer = self.initializer(settings, gain)
        return initializer(self.shape, self.variable.dtype, self.layout)

    @property
    def constraint(self) -> Any:
        """What training applies to the kernel after each step; `None` for nothing."""
        return getattr(self.variable, "constraint", None)

    def is_constrained(self, settings: Settings) -> bool:
        """Returns whether its constraint changes what is drawn for it."""
        if self.constraint is None or self.gain is None:
            return False
        drawn = self._drawn(settings, self.gain)
        return not self._equal(self.draw(settings, self.gain), drawn)

    def share_left(self, settings: Settings) -> float:
        """Returns the second moment that its constraint leaves, over that of what is drawn."""
        assert self.gain is not None
        drawn = mean_square(self._drawn(settings, self.gain))
        return mean_square(self.draw(settings, self.gain)) / drawn if drawn else 1.0

    def is_stable(self, settings: Settings) -> bool:
        """Returns whether its constraint leaves the planned values as they are."""
        assert self.gain is not None
        values = self.draw(settings, self.gain)
        changed = mean_square(self.constraint(values) - values)
        return changed <= _ALIKE**2 * mean_square(values)

    def scales_by(self, settings: Settings, gain: float) -> bool:
        """Returns whether its values under a gain are those of gain 1, times the gain."""
        return self._equal(self.draw(settings, gain), self.draw(settings, 1.0) * gain)

    @cached_property
    def scale_is_fixed(self) -> bool:
        """Whether its constraint gives it the same size, however large or small it is drawn."""
        if self.constraint is None:
            return False
        drawn = self._drawn(Settings("normal", "fan_in"), 1.0)
        small, one, large = (self.constraint(drawn * factor) for factor in (1e-3, 1.0, 1e3))
        apart = max(mean_square(one - small), mean_square(one - large))
        return apart < _ALIKE**2 * mean_square(one)

    def _equal(self, one: Any, other: Any) -> bool:
        """Returns whether two values of the kernel are equal up to rounding."""
        half = self.variable.dtype in ("float16", "bfloat16")
        wide = [keras.ops.cast(each, "float32") for each in (one, other)]
        apart = number(keras.ops.max(keras.ops.abs(wide[0] - wide[1])))
        largest = number(keras.ops.max(keras.ops.abs(wide[1])))
        return apart <= (_ALIKE if half else _ROUNDING) * largest

    @cached_property
    def value_range(self) -> tuple[float, float]:
        """The least and the largest of the values of a variable that is no kernel."""
        numbers = keras.ops.convert_to_numpy(keras.ops.cast(self.planned, "float32"))
        return (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)


def seed_of(seed: int, key: str) -> int:
    """Returns the seed of what has a key: 63 bits that no other seed and key give."""
    digest = hashlib.blake2b(f"keras_he {seed} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
