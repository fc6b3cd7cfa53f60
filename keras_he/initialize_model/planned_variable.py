"""What is decided for each variable: the initializer that makes it, and what was seen of it."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras

from keras_he.backend.sharding import layout_of
from keras_he.initializers.kaiming import CLASSES, Kaiming, KaimingOrthogonal
from keras_he.layers.variables import Slot
from keras_he.notes import NO_NOTE, Note
from keras_he.sampling.laws import LawName
from keras_he.theory.kernel_geometry import DEFAULTS, Fans, geometry_fans
from keras_he.theory.standard_deviation import Mode, standard_deviation


@dataclass(eq=False)
class Entry:
    """A variable of the plan.

    Attributes:
        slot: The variable, and where it stands.
        left: Why it stays as it is, or nothing.
        rule: How its values are found: `"measured"`, `"analytic"`, `"orthogonal per gate"`, the
            name of an initializer of its layer, or `"batch statistics"`.
        gain: Of kernels, the factor over `1 / sqrt(fan)`.
        target: The second moment that the pre-activation of a kernel is to have; 1, or `1 / n`
            before a sum, `1 / n²` where an activation stands between.
        activation: The activation in front, `None` where there is none.
        moments: The second moment of the pre-activation, without its bias, at each call.
        seed: Seed of its values.
        value: The values of a variable that is no kernel.
        behind: The number of kernels on the longest way back from what its layer is given.
        input_size: The number of elements that its layer was given.
        output_shape: Shape of the pre-activation.
        order: Its place among those that the pass came by, `None` where it did not.
    """

    slot: Slot
    seed: int
    left: Note = NO_NOTE
    rule: str = ""
    gain: float | None = None
    target: float = 1.0
    activation: Any = None
    moments: list[float] = field(default_factory=list)
    value: Any = None
    behind: int = 0
    input_size: int = 0
    output_shape: tuple[int, ...] = ()
    order: int | None = None
    _made: tuple[tuple[str, str, float, bool], Kaiming] | None = None

    @property
    def is_set(self) -> bool:
        """Whether it is a kernel that gets new weights."""
        return self.slot.role == "kernel" and not self.left

    @property
    def recurrent(self) -> bool:
        """Whether it carries a recurrent layer's state to its next step."""
        return self.slot.name == "recurrent_kernel"

    @property
    def adds_bias(self) -> bool:
        """Whether it is a bias that a layer adds to a pre-activation that can be seen."""
        layer = self.slot.layer
        seen = not self.slot.unseen and callable(getattr(layer, "activation", None))
        return self.slot.name == "bias" and seen and self.slot.beside_kernel

    @property
    def planned(self) -> Any:
        """The values of a variable that is no kernel, as they will be."""
        return self.slot.variable.value if self.value is None else self.value

    def forget(self) -> None:
        """Takes back what a pass has found."""
        self.rule, self.gain, self.target, self.activation = "", None, 1.0, None
        self.order = None
        self.moments.clear()

    def initializer(self, law: LawName, mode: Mode, gain: float, *, seeded: bool = True) -> Kaiming:
        """Returns the initializer of this kernel with a gain; the same one for the same."""
        asked = (law, mode, gain, seeded)
        if self._made is None or self._made[0] != asked:
            cls = KaimingOrthogonal if self.recurrent else CLASSES[law]
            seed = self.seed if seeded else None
            self._made = (asked, cls(mode=mode, gain=gain, seed=seed, **_arguments(self.slot)))
        return self._made[1]

    def draw(self, law: LawName, mode: Mode, gain: float) -> Any:
        """Returns the kernel's values under a gain."""
        variable = self.slot.variable
        initializer = self.initializer(law, mode, gain)
        return initializer(tuple(variable.shape), variable.dtype, layout_of(variable))

    @cached_property
    def range(self) -> tuple[float, float]:
        """The least and the largest of the values of a variable that is no kernel."""
        numbers = keras.ops.convert_to_numpy(keras.ops.cast(self.planned, "float32"))
        return (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)

    @cached_property
    def fans(self) -> Fans | None:
        """The fans of a kernel, `None` of anything else."""
        kernel = self.slot.kernel
        return None if kernel is None else geometry_fans(self.slot.variable.shape, kernel.geometry)

    def std(self, mode: str) -> float | None:
        """Returns the standard deviation of the kernel's values."""
        if self.gain is None or self.fans is None:
            return None
        return standard_deviation(self.gain, self.fans, mode)


def seed_of(seed: int, key: str) -> int:
    """Returns the seed of what stands at `key`: 63 bits that no other seed and key give."""
    digest = hashlib.blake2b(f"keras_he {seed} {key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _arguments(slot: Slot) -> dict[str, Any]:
    """Returns how the kernel is used, as arguments of an initializer."""
    if slot.kernel is None:
        return {}
    geometry = slot.kernel.geometry
    strides = geometry.strides
    return {
        **dict(zip(DEFAULTS, geometry, strict=True)),
        "strides": strides[0] if len(strides) == 1 else strides,
    }
