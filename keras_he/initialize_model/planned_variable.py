"""The record of a variable in a plan: how its new values are made, and what was measured of it."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import keras

from keras_he.initializers.kaiming import CLASSES, Kaiming, KaimingOrthogonal
from keras_he.layers.variables import ModelVariable
from keras_he.sampling.laws import LawName
from keras_he.theory.kernel_geometry import Mode


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
        rule: How its values are found: `"measured"`, `"analytic"`, `"orthogonal per gate"`, the
            name of an initializer of its layer, or `"batch statistics"`.
        gain: Of kernels, the factor over `1 / sqrt(fan)`.
        std: The standard deviation of the values of a kernel that is set.
        target: The second moment that the pre-activation of a kernel is to have: 1, or `1 / n`
            before a sum, `1 / n²` where an activation ends the branch.
        activation: The activation that precedes it, `None` where there is none.
        moments: The second moment of the pre-activation, without its bias, at each call.
        value: The new values of a variable that is no kernel.
        kernels_before: The number of kernels on the longest way from the input to its layer.
        input_size: The number of elements of the inputs of its layer.
        output_shape: Shape of the pre-activation.
        order: Its place in the order of execution, `None` where the pass did not reach it.
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
    value: Any = None
    kernels_before: int = 0
    input_size: int = 0
    output_shape: tuple[int, ...] = ()
    order: int | None = None
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

    def forget(self) -> None:
        """Takes back what a pass has found."""
        self.rule, self.gain, self.target, self.activation = "", None, 1.0, None
        self.order = None
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
        """Returns the kernel's values under a gain."""
        initializer = self.initializer(settings, gain)
        return initializer(self.shape, self.variable.dtype, self.layout)

    @cached_property
    def value_range(self) -> tuple[float, float]:
        """The least and the largest of the values of a variable that is no kernel."""
        numbers = keras.ops.convert_to_numpy(keras.ops.cast(self.planned, "float32"))
        return (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)


def seed_of(seed: int, key: str) -> int:
    """Returns the seed of what has a key: 63 bits that no other seed and key give."""
    digest = hashlib.blake2b(f"keras_he {seed} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
