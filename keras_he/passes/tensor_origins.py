"""Where a tensor came from: the activation in front, the last kernels, and the merges on its way.

Tensors are known by identity while the pass holds them. What comes from outside of any layer is
looked at: a copy in another dtype keeps its origin, a sum of two known tensors is a merge that no
layer made, and anything else has no known past.

At a sum one input is the trunk, the one with the longest way back through earlier merges, else the
one that holds fewest kernels; the last kernels of the others are scaled by `1 / sqrt(n)`, with `n`
the number of sums on the trunk since it was last set to a known size. So the second moment of the
trunk grows from 1 to at most 2, however many blocks there are. Behind an activation branches have
means, which add up, and are scaled by `1 / n`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_he.backend.keras_private import is_of_keras, operation_name
from keras_he.layers.kinds import ACTIVATIONS, is_normalisation
from keras_he.theory.activations import KNOWN, NAMES, canonical

UNKNOWN = "unknown"  # the activation of a tensor whose past was not seen
_PROBES = 16  # values by which a tensor is told from others
_RECENT = 64  # tensors of one shape that a sum is looked for among
# Operations of functional models that move values and leave them as they are.
_MOVING = (
    "cast expanddims flip getitem moveaxis pad repeat reshape roll squeeze swapaxes take tile "
    "transpose"
).split()
_BY_OPERATION = {name.replace("_", ""): name for name in NAMES}
_MERGES = (
    keras.layers.Average,
    keras.layers.Concatenate,
    keras.layers.Dot,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
)


@dataclass(eq=False)
class Run:
    """The sums on one stretch of a trunk, and the kernels of the branches that they add.

    `moments` are the second moments of the sums; of a branch, whether an activation ends it.
    """

    sums: int = 0
    branches: list[tuple[Any, bool]] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)


@dataclass(eq=False)
class Origin:
    """The past of a tensor.

    Attributes:
        tensor: The tensor, held so that its identity stays its own.
        activation: The activation it passed last, `None` where it passed none since a kernel, and
            `UNKNOWN`.
        last: Keys of the kernels that alone set its size; empty after a normalisation or a merge.
        kernels: The number of kernels on the longest way back.
        merges: The number of sums on the longest way back.
        run: The stretch of trunk that it stands on.
        sources: Keys of the kernels whose size it has, or is a sum of; empty after a normalisation.
        nearest: Keys of the kernels that it passed last, whatever stands between.
    """

    tensor: Any
    activation: Any = None
    last: tuple[Any, ...] = ()
    kernels: int = 0
    merges: int = 0
    run: Run | None = None
    sources: frozenset[Any] = frozenset()
    nearest: frozenset[Any] = frozenset()
    probes: NDArray[Any] | None = None


class Trace:
    """The tensors of one pass, and what was seen of merges."""

    def __init__(self, inputs: Iterable[Any]) -> None:
        self._known: dict[int, Origin] = {}
        self._recent: dict[tuple[int, ...], list[Origin]] = {}
        self.runs: list[Run] = []
        self.left: Counter[str] = Counter()  # merges that are left as they are, by their type
        self.unseen: list[str] = []  # layers in front of which a sum was made outside of any layer
        self.hidden: list[str] = []  # layers that make something of the layers inside, unseen
        for tensor in inputs:
            self.add(Origin(tensor))

    def knows(self, tensor: Any) -> bool:
        """Returns whether a tensor was made by what is watched."""
        return id(tensor) in self._known

    def add(self, origin: Origin) -> None:
        """Records where a tensor came from."""
        self._known[id(origin.tensor)] = origin
        self._recent.setdefault(tuple(origin.tensor.shape), []).append(origin)

    def origins(self, reader: str, tensors: Iterable[Any]) -> list[Origin]:
        """Returns the origins of what `reader` is given, which is named where a sum was unseen."""
        return [self._origin(reader, tensor) for tensor in tensors]

    def kernel_output(
        self,
        tensor: Any,
        inputs: Sequence[Origin],
        last: Iterable[Any],
        activation: Any = None,
    ) -> None:
        """Records what a layer with kernels made, and the activation in it that comes last."""
        kernels, merges = _longest(inputs)
        keys = tuple(last)
        passed = frozenset(keys)
        self.add(Origin(tensor, activation, keys, kernels + 1, merges, None, passed, passed))

    def activated(self, tensor: Any, source: Origin, activation: Any) -> None:
        """Records what an activation made of a known tensor."""
        if not self.knows(tensor):
            self.add(replace(source, tensor=tensor, activation=activation, probes=None))

    def passed(
        self, layer: Any, tensor: Any, inputs: Sequence[Origin], moment: float = 0.0
    ) -> None:
        """Records what a layer without kernels made, and its second moment."""
        if not inputs:
            self.add(Origin(tensor))
        elif is_normalisation(layer):
            kernels, merges = _longest(inputs)
            nearest = _union(inputs, "nearest")
            self.add(Origin(tensor, None, (), kernels, merges, nearest=nearest))
        elif is_sum(layer, inputs):
            total = self._sum(tensor, inputs)
            if total.run is not None:
                total.run.moments.append(moment)
            self.add(total)
        elif isinstance(layer, _MERGES) or (len(inputs) > 1 and _is_unknown(layer)):
            self.left[type(layer).__name__] += 1
            kernels, merges = _longest(inputs)
            # A gate is smaller than what it multiplies, whose kernels set the size of the product.
            main = max(inputs, key=lambda origin: math.prod(origin.tensor.shape))
            last = main.last if isinstance(layer, keras.layers.Multiply) else ()
            known = _common(inputs) if isinstance(layer, keras.layers.Concatenate) else UNKNOWN
            self.add(Origin(tensor, known, last, kernels, merges, None, *_passed(inputs)))
        elif isinstance(layer, ACTIVATIONS):
            self.activated(tensor, inputs[0], layer)
        elif _is_unknown(layer) and operation_name(layer) not in _MOVING:
            self.activated(tensor, inputs[0], _elementwise(layer))
        else:
            self.add(replace(inputs[0], tensor=tensor, probes=None))

    def composed(self, layer: str, tensor: Any, inputs: Sequence[Origin]) -> None:
        """Records what a layer made of other layers' results, in a way that was not seen."""
        kernels, merges = _longest(inputs)
        known = self._recognized(layer, tensor)
        if known is None:
            self.hidden.append(layer)
            known = Origin(tensor, UNKNOWN, (), kernels + 1, merges, None, *_passed(inputs))
        self.add(known)

    def _sum(self, tensor: Any, inputs: Sequence[Origin]) -> Origin:
        trunk = max(inputs, key=lambda origin: (origin.merges, -origin.kernels))
        run = trunk.run
        if run is None:
            run = Run()
            self.runs.append(run)
        run.sums += len(inputs) - 1
        for branch in inputs:
            if branch is not trunk and not set(branch.last) & set(trunk.last):
                ends = branch.activation is not None
                run.branches.extend((key, ends) for key in branch.last)
        kernels, merges = _longest(inputs)
        plain = all(origin.activation is None for origin in inputs)
        activation = None if plain else UNKNOWN
        return Origin(tensor, activation, (), kernels, merges + 1, run, *_passed(inputs))

    def _origin(self, reader: str, tensor: Any) -> Origin:
        known = self._known.get(id(tensor))
        if known is None:
            known = self._recognized(reader, tensor) or Origin(tensor, UNKNOWN)
            self.add(known)
        return known

    def _recognized(self, reader: str, tensor: Any) -> Origin | None:
        """Returns the origin of a tensor that equals a known one, or the sum of two."""
        shape = tuple(tensor.shape)
        recent = self._recent.get(shape, [])[-_RECENT:]
        if not recent or math.prod(shape) < _PROBES:
            return None
        values = _probes(Origin(tensor))
        others = np.stack([_probes(origin) for origin in recent])
        half = keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16")
        tolerance = (1e-2 if half else 1e-5) * np.abs(values).max()
        if not tolerance > 0.0:
            return None
        equal = np.flatnonzero((np.abs(others - values) <= tolerance).all(axis=-1))
        if len(equal):
            same: Origin = recent[equal[-1]]
            return replace(same, tensor=tensor, probes=None)
        sums = np.abs(others[:, None] + others[None] - values).max(axis=-1) <= tolerance
        if not sums.any():
            return None
        self.unseen.append(reader)
        parts = [recent[i] for i in np.argwhere(sums)[0]]
        kernels, merges = _longest(parts)
        return Origin(tensor, None, (), kernels, merges, None, *_passed(parts))


def _elementwise(layer: Any) -> Any:
    """Returns the activation that an operation is, `UNKNOWN` of any other and of a layer."""
    name = _BY_OPERATION.get(operation_name(layer))
    if name is None:
        return UNKNOWN
    # Those with parameters are asked themselves; past the hook that shadows their `call`.
    plain = name == "gelu" or not KNOWN[canonical(name)].parameters
    return name if plain else partial(type(layer).call, layer)


def _common(inputs: Sequence[Origin]) -> Any:
    """Returns the activation that all inputs passed last, by name where it has one."""
    names = {_label(origin.activation) for origin in inputs}
    return inputs[0].activation if len(names) == 1 else UNKNOWN


def _label(activation: Any) -> Any:
    if isinstance(activation, keras.layers.Activation):
        activation = activation.activation
    if isinstance(activation, keras.layers.Layer):
        return type(activation), str(activation.get_config().get("negative_slope"))
    return getattr(activation, "__name__", activation)


def _is_unknown(layer: Any) -> bool:
    """Returns whether what becomes of several inputs is not known: not of a layer of Keras."""
    own = isinstance(layer, keras.layers.Layer) and is_of_keras(layer)
    return not own or isinstance(layer, keras.layers.Lambda)


def is_sum(layer: Any, inputs: Sequence[Origin]) -> bool:
    """Returns whether it adds: an `Add` layer, or `+` in a functional model."""
    if isinstance(layer, keras.layers.Add):
        return True
    shapes = {tuple(origin.tensor.shape) for origin in inputs}
    return operation_name(layer) == "add" and len(inputs) == 2 and len(shapes) == 1


def branch_factors(runs: Iterable[Run]) -> dict[Any, float]:
    """Returns, by key, the factors of the kernels that end branches; 1 is left out."""
    factors: dict[Any, float] = {}
    for run in runs:
        for key, positive in run.branches:
            factor = 1 / run.sums if positive else 1 / math.sqrt(run.sums)
            factors[key] = min(factors.get(key, 1.0), factor)
    return {key: factor for key, factor in factors.items() if factor < 1.0}


def _longest(inputs: Sequence[Origin]) -> tuple[int, int]:
    """Returns the largest numbers of kernels and of sums on the way back."""
    return (
        max((origin.kernels for origin in inputs), default=0),
        max((origin.merges for origin in inputs), default=0),
    )


def _passed(inputs: Sequence[Origin]) -> tuple[frozenset[Any], frozenset[Any]]:
    """Returns the sources and the nearest kernels of a merge."""
    return _union(inputs, "sources"), _union(inputs, "nearest")


def _union(inputs: Sequence[Origin], name: str) -> frozenset[Any]:
    return frozenset().union(*(getattr(origin, name) for origin in inputs))


def _probes(origin: Origin) -> NDArray[Any]:
    if origin.probes is None:
        flat = keras.ops.reshape(origin.tensor, (-1,))
        positions = np.linspace(0, flat.shape[0] - 1, _PROBES).astype("int32")
        picked = keras.ops.cast(keras.ops.take(flat, positions), "float32")
        origin.probes = keras.ops.convert_to_numpy(picked)
    return origin.probes
