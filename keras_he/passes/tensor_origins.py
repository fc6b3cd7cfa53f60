"""Where a tensor came from: its preceding activation, its last kernels, the merges before it.

A tensor is known by its identity while the pass holds it. A tensor that no layer returned is
compared with known ones: a copy in another dtype has the same origin, a sum of two known tensors is
recognized by its values, and the origin of any other tensor is unknown.

At a sum one input is the trunk: the one with most earlier merges, else the one with fewest kernels.
The last kernels of the other inputs, the branches, are scaled by `1 / sqrt(n)`, where `n` is the
number of sums on the trunk since its size was last set. So the second moment of the trunk grows
from 1 to at most 2, however many blocks there are. Branches that end in an activation have means,
which add up, so they are scaled by `1 / n`. Whether an operation that is not known acts as an
activation is seen in the mean of the branch.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_he.backend.keras_private import is_of_keras, operation_name, unhooked_call
from keras_he.backend.tensors import mean_square, number
from keras_he.layers.kinds import ACTIVATIONS, is_normalisation
from keras_he.theory.activations import KNOWN, NAMES, canonical

UNKNOWN = "unknown"  # the activation of a tensor whose origin is not known
_PROBES = 16  # values by which a tensor is recognized
_MEAN = 0.1  # share of the mean in a second moment, from which on it adds up
_RECENT = 64  # tensors of one shape among which a sum is searched
# Operations of functional models that move values and do not change them.
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
    """The sums on one stretch of a trunk, and the branches that they add.

    Attributes:
        sums: The number of sums.
        branches: The key of the kernel that ends each branch, and whether an activation follows it.
        moments: The second moments of the sums.
    """

    sums: int = 0
    branches: list[tuple[Any, bool]] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)


@dataclass(eq=False)
class Origin:
    """The origin of a tensor.

    Attributes:
        tensor: The tensor, which is held so that no other tensor gets its identity.
        activation: The activation that it passed last; `None` where it passed none since a kernel,
            or `UNKNOWN`.
        last: Keys of the kernels that alone set its size; empty after a normalisation or a merge.
        kernels: The number of kernels on the longest way from the input.
        merges: The number of sums on the longest way from the input.
        run: The stretch of trunk to which it belongs.
        sources: Keys of the kernels that set its size, also through sums; empty after a
            normalisation.
        nearest: Keys of the kernels that it passed last.
        probes: Some of its values, by which it is recognized.
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
    """The origins of the tensors of one pass, and its merges."""

    def __init__(self, inputs: Iterable[Any]) -> None:
        self._known: dict[int, Origin] = {}
        self._recent: dict[tuple[int, ...], list[Origin]] = {}
        self.runs: list[Run] = []
        self.left: Counter[str] = Counter()  # merges whose branches are not scaled, by type
        self.hidden: list[str] = []  # layers that combine inner layers in an unknown way
        for tensor in inputs:
            if tensor is not None:  # an optional input that was not given
                self.add(Origin(tensor))

    def knows(self, tensor: Any) -> bool:
        """Returns whether the origin of a tensor is recorded."""
        return id(tensor) in self._known

    def add(self, origin: Origin) -> None:
        """Records the origin of a tensor."""
        self._known[id(origin.tensor)] = origin
        self._recent.setdefault(tuple(origin.tensor.shape), []).append(origin)

    def origins(self, tensors: Iterable[Any]) -> list[Origin]:
        """Returns the origins of tensors."""
        return [self._origin(tensor) for tensor in tensors]

    def kernel_output(
        self,
        tensor: Any,
        inputs: Sequence[Origin],
        last: Iterable[Any],
        activation: Any = None,
    ) -> None:
        """Records the output of a layer with kernels, and its last activation."""
        kernels, merges = _longest(inputs)
        keys = tuple(last)
        passed = frozenset(keys)
        self.add(Origin(tensor, activation, keys, kernels + 1, merges, None, passed, passed))

    def activated(self, tensor: Any, source: Origin, activation: Any) -> None:
        """Records the output of an activation."""
        if not self.knows(tensor):
            self.add(replace(source, tensor=tensor, activation=activation, probes=None))

    def passed(
        self, layer: Any, tensor: Any, inputs: Sequence[Origin], moment: float = 0.0
    ) -> None:
        """Records the output of a layer without kernels, and its second moment."""
        if not inputs:
            self.add(Origin(tensor))
        elif is_normalisation(layer):
            kernels, merges = _longest(inputs)
            nearest = _union(inputs, "nearest")
            self.add(Origin(tensor, None, (), kernels, merges, nearest=nearest))
        elif is_sum(layer, inputs):
            self.add(self._sum(tensor, inputs, moment))
        elif isinstance(layer, _MERGES) or (len(inputs) > 1 and _is_unknown(layer)):
            self.left[type(layer).__name__] += 1
            kernels, merges = _longest(inputs)
            # Of a product the larger factor counts: the other is a gate.
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
        """Records the output of a layer that combines inner layers in a way that is not known.

        A layer of the user's own is named, because its sums may not have been seen.
        """
        kernels, merges = _longest(inputs)
        known = self._recognized(tensor)
        if known is None:
            self.hidden += [layer] * bool(layer)
            known = Origin(tensor, UNKNOWN, (), kernels + 1, merges, None, *_passed(inputs))
        self.add(known)

    def equal(self, value: Any, inputs: Sequence[Origin]) -> Origin | None:
        """Returns the one of the inputs of a layer that equals a value."""
        if not keras.ops.is_tensor(value) or math.prod(value.shape) < _PROBES:
            return None
        candidates = [one for one in inputs if tuple(one.tensor.shape) == tuple(value.shape)]
        return _same(Origin(value), candidates)

    def added(
        self,
        tensor: Any,
        trunk: Origin,
        branch: Any,
        inputs: Sequence[Origin],
        last: Iterable[Any],
    ) -> None:
        """Records the output of a layer that adds what its kernels make to its own input."""
        self.kernel_output(branch, inputs, last)
        self.add(self._sum(tensor, [trunk, self._known[id(branch)]], mean_square(tensor)))

    def _sum(self, tensor: Any, inputs: Sequence[Origin], moment: float) -> Origin:
        trunk = max(inputs, key=lambda origin: (origin.merges, -origin.kernels))
        run = trunk.run
        if run is None:
            run = Run()
            self.runs.append(run)
        run.sums += len(inputs) - 1
        run.moments.append(moment)
        for branch in inputs:
            if branch is not trunk and not set(branch.last) & set(trunk.last):
                ends = _adds_up(branch)
                run.branches.extend((key, ends) for key in branch.last)
        kernels, merges = _longest(inputs)
        plain = all(origin.activation is None for origin in inputs)
        activation = None if plain else UNKNOWN
        return Origin(tensor, activation, (), kernels, merges + 1, run, *_passed(inputs))

    def _origin(self, tensor: Any) -> Origin:
        known = self._known.get(id(tensor))
        if known is None:
            known = self._recognized(tensor) or Origin(tensor, UNKNOWN)
            self.add(known)
        return known

    def _recognized(self, tensor: Any) -> Origin | None:
        """Returns the origin of a tensor that equals a known one, or a sum of two."""
        shape = tuple(tensor.shape)
        recent = self._recent.get(shape, [])[-_RECENT:]
        if not recent or math.prod(shape) < _PROBES:
            return None
        one = Origin(tensor)
        same = _same(one, recent)
        if same is not None:
            return replace(same, tensor=tensor, probes=None)
        values, others = _probes(one), np.stack([_probes(origin) for origin in recent])
        tolerance = _tolerance(one)
        sums = np.abs(others[:, None] + others[None] - values).max(axis=-1) <= tolerance
        if not (tolerance > 0.0 and sums.any()):
            return None
        parts = [recent[i] for i in np.argwhere(sums)[0]]
        return self._sum(tensor, parts, mean_square(tensor))


def _same(one: Origin, others: Sequence[Origin]) -> Origin | None:
    """Returns the last of others that has the values of one."""
    tolerance = _tolerance(one)
    if not others or not tolerance > 0.0:
        return None
    differences = np.abs(np.stack([_probes(origin) for origin in others]) - _probes(one))
    equal = np.flatnonzero((differences <= tolerance).all(axis=-1))
    return others[equal[-1]] if len(equal) else None


def _tolerance(one: Origin) -> float:
    """Returns by how much values may differ that are equal up to rounding."""
    half = keras.backend.standardize_dtype(one.tensor.dtype) in ("float16", "bfloat16")
    return (1e-2 if half else 1e-5) * float(np.abs(_probes(one)).max())


def _adds_up(branch: Origin) -> bool:
    """Returns whether the mean of a branch adds up over the sums of a trunk."""
    if not isinstance(branch.activation, str) or branch.activation != UNKNOWN:
        return branch.activation is not None
    moment = mean_square(branch.tensor)
    mean = number(keras.ops.mean(keras.ops.cast(branch.tensor, "float32")))
    return mean * mean > _MEAN * moment


def _elementwise(layer: Any) -> Any:
    """Returns the activation that an operation is, `UNKNOWN` of any other and of a layer."""
    name = _BY_OPERATION.get(operation_name(layer))
    if name is None:
        return UNKNOWN
    # Those with parameters are asked themselves; past the hook that shadows their `call`.
    plain = name == "gelu" or not KNOWN[canonical(name)].parameters
    return name if plain else unhooked_call(layer)


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
    """Returns whether it is not known how a layer combines inputs: of all but Keras' own."""
    own = isinstance(layer, keras.layers.Layer) and is_of_keras(layer)
    return not own or isinstance(layer, keras.layers.Lambda)


def is_sum(layer: Any, inputs: Sequence[Origin]) -> bool:
    """Returns whether a layer or operation adds: an `Add` layer, or `+` in a functional model."""
    if isinstance(layer, keras.layers.Add):
        return True
    shapes = {tuple(origin.tensor.shape) for origin in inputs}
    return operation_name(layer) == "add" and len(inputs) == 2 and len(shapes) == 1


def branch_factors(runs: Iterable[Run]) -> dict[Any, float]:
    """Returns, by key, the factors of the kernels that end branches, those of 1 excepted."""
    factors: dict[Any, float] = {}
    for run in runs:
        for key, positive in run.branches:
            factor = 1 / run.sums if positive else 1 / math.sqrt(run.sums)
            factors[key] = min(factors.get(key, 1.0), factor)
    return {key: factor for key, factor in factors.items() if factor < 1.0}


def _longest(inputs: Sequence[Origin]) -> tuple[int, int]:
    """Returns the largest numbers of kernels and of sums."""
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
