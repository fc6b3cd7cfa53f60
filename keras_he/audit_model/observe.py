"""One forward pass that looks and changes nothing: what each kernel makes of what it is given.

Of each call of a layer with kernels the pre-activation is seen, its bias included, and of each
activation which of its units pass no gradient. Nothing is refused: NaN, zeros and kernels that are
not linear are what an audit is there to show.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_he.backend.keras_private import holds, layers_inside
from keras_he.backend.tensors import float_tensors, mean_square, number
from keras_he.layers.variables import Slot, is_normalisation
from keras_he.passes.preceding_activation import moments_in_front
from keras_he.passes.special_layers import SEPARABLE, all_steps, depthwise_half
from keras_he.passes.tensor_origins import ACTIVATIONS, UNKNOWN, Origin, Trace

# A unit that moves by less than this share of what it is given passes no gradient to speak of.
_STILL = 1e-3
_FEWEST = 8  # values of a unit, below which nothing is said of it
_FLAT = 0.05  # share of its steepest slope, below which a sigmoid is saturated
_STEEP = 0.5  # share of its steepest slope that a sigmoid has around 0


@dataclass
class Units:
    """What an activation does to a batch.

    `dead` is the share of units that hardly move though what they are given moves; `None` where it
    acts across elements, or there are too few values. `saturated` is the share of values where a
    sigmoid is flat; 0 of any other activation.
    """

    activation: Any
    dead: float | None = None
    saturated: float = 0.0


@dataclass(eq=False)
class Sight:
    """What was seen of one kernel.

    Attributes:
        slot: The kernel.
        order: Its place in the order of execution, `None` where it was not reached.
        moments: Second moment of the pre-activation at each call.
        mean: Mean of the pre-activation at the first call.
        given: Second moment of what its layer was given at the first call.
        made: Second moment of what its layer returned, where no pre-activation is seen.
        activation: The activation in front, `None` for none.
        units: What the activation behind it does.
        sources: Variables of the kernels whose size the signal has that it is given.
        behind: Number of kernels on the longest way back.
        normalised: Whether a normalisation stands behind it, in front of any other kernel.
    """

    slot: Slot
    order: int | None = None
    moments: list[float] = field(default_factory=list)
    mean: float = math.nan
    given: float = math.nan
    made: float = math.nan
    activation: Any = None
    units: Units | None = None
    sources: frozenset[int] = frozenset()
    behind: int = 0
    normalised: bool = False


@dataclass
class _Open:
    """A call of a layer with kernels that is going on."""

    layer: Any
    inputs: list[Origin]
    seen: bool = False


class Observation:
    """The watcher of an audit.

    Args:
        found: The variables of the model.
        trace: The trace of the pass, which knows the model's inputs.
        paths: Paths of the layers, by their identity.
        progress: Called after each layer.
    """

    def __init__(
        self,
        found: Sequence[Slot],
        trace: Trace,
        paths: dict[int, str],
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._trace, self._paths, self._progress = trace, paths, progress
        self.sights = {id(one.variable): Sight(one) for one in found if one.role == "kernel"}
        self._kernels: dict[int, list[Sight]] = {}
        for sight in self.sights.values():
            self._kernels.setdefault(id(sight.slot.layer), []).append(sight)
        self._open: list[_Open] = []
        self._reached = 0
        self._read: dict[int, tuple[Any, bool, tuple[float, float] | None]] = {}
        self.calls: dict[int, list[tuple[int, ...]]] = {}  # shapes of pre-activations, by layer
        self.broken: list[str] = []  # layers that make NaN or infinity of finite numbers, in order

    def on_call(self, layer: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Runs a layer, and records where its outputs came from."""
        inputs = self._trace.origins(self._path(layer), float_tensors((args, kwargs)))
        kernels = self._kernels.get(id(layer), [])
        if isinstance(layer, keras.layers.RNN):
            kernels = [one for inner in layers_inside(layer) for one in self._of(inner)]
        for position, sight in enumerate(kernels):
            self._reach(sight, inputs, kernels[position - 1] if position else None)
        if isinstance(layer, keras.layers.TimeDistributed):
            call = partial(all_steps, layer, call)
        if not kernels or isinstance(layer, keras.layers.RNN):
            outputs = call(*args, **kwargs)
        else:
            outputs = self._kernel_call(layer, call, args, kwargs, inputs)
        return self._finish(layer, kernels, inputs, outputs)

    def on_activation(self, layer: Any, activation: Callable[[Any], Any], value: Any) -> Any:
        """Looks at a pre-activation, and at what the activation makes of it."""
        current = self._open[-1] if self._open else None
        if current is not None and current.layer is layer:
            current.seen = True
            self.calls.setdefault(id(layer), []).append(tuple(value.shape))
            kernels = self._of(layer)
            _look(kernels[-1], value)
            self._trace.kernel_output(value, current.inputs, _keys(kernels))
        (source,) = self._trace.origins(self._path(layer), [value])
        result = activation(value)
        linear = activation is keras.activations.linear
        if not linear:
            self._units(layer, activation, value, result, source)
        self._trace.activated(result, source, None if linear else activation)
        return result

    def _kernel_call(
        self, layer: Any, call: Callable[..., Any], args: Any, kwargs: Any, inputs: list[Origin]
    ) -> Any:
        kernels = self._of(layer)
        if isinstance(layer, SEPARABLE):
            _look(kernels[0], depthwise_half(layer, args[0]))
        self._open.append(_Open(layer, inputs))
        try:
            outputs = call(*args, **kwargs)
        finally:
            seen = self._open.pop().seen
        if not seen and len(kernels) == 1 and float_tensors(outputs):
            _look(kernels[0], float_tensors(outputs)[0])
        return outputs

    def _reach(self, sight: Sight, inputs: Sequence[Origin], before: Sight | None) -> None:
        """Records what is in front of a kernel, and `before` it in the same layer."""
        if sight.order is not None:
            return
        sight.order = self._reached
        self._reached += 1
        if not inputs:
            return
        sight.behind = max(one.kernels for one in inputs)
        if before is not None:  # nothing stands between the halves of a separable convolution
            sight.sources = frozenset([id(before.slot.variable)])
            sight.given = before.given
            return
        sight.given = mean_square(inputs[0].tensor)
        sight.activation = inputs[0].activation
        sight.sources = frozenset().union(*(one.sources for one in inputs))

    def _finish(self, layer: Any, kernels: Any, inputs: list[Origin], outputs: Any) -> Any:
        normalises = is_normalisation(layer)
        for tensor in float_tensors(outputs):
            if self._trace.knows(tensor):
                continue
            moment = mean_square(tensor)
            if not math.isfinite(moment):
                self._break(layer, inputs)
            if kernels:
                # What a recurrent layer or an embedding gives is not of size 1, nor linear.
                hidden = isinstance(layer, (keras.layers.RNN, keras.layers.Embedding))
                kernels[-1].made = moment if hidden else math.nan
                known = UNKNOWN if hidden else None
                self._trace.kernel_output(tensor, inputs, _keys(kernels), known)
            elif self._holds_kernels(layer):
                self._trace.composed(self._path(layer), tensor, inputs)
            else:
                self._trace.passed(layer, tensor, inputs, moment)
            if isinstance(layer, ACTIVATIONS) and inputs:
                self._units(layer, layer, inputs[0].tensor, tensor, inputs[0])
        if normalises:
            for origin in inputs:
                for key in origin.nearest:
                    self.sights[key].normalised = True
        self._progress()
        return outputs

    def _break(self, layer: Any, inputs: Sequence[Origin]) -> None:
        """Names a layer that makes NaN or infinity, and not one that is given it."""
        inner = any(one.startswith(f"{self._path(layer)}/") for one in self.broken)
        if not inner and all(math.isfinite(mean_square(origin.tensor)) for origin in inputs):
            self.broken.append(self._path(layer))

    def _units(self, layer: Any, activation: Any, value: Any, result: Any, source: Origin) -> None:
        """Records what an activation does, with the kernel that it stands behind."""
        behind = [self.sights[key] for key in source.nearest if key in self.sights]
        if len(behind) != 1 or behind[0].units is not None:
            return
        sight = behind[0]
        acts, bounds = self._kind(activation)
        sight.units = Units(activation)
        if acts and tuple(value.shape) == tuple(result.shape):
            first = getattr(sight.slot.layer, "data_format", None) == "channels_first"
            sight.units.dead = _dead(value, result, 1 if first and len(value.shape) > 2 else -1)
            sight.units.saturated = _outside(value, bounds)

    def _kind(self, activation: Any) -> tuple[bool, tuple[float, float] | None]:
        """Returns whether an activation acts element by element, and where a sigmoid is steep."""
        known = self._read.get(id(activation))
        if known is None:
            acts = moments_in_front(activation) is not None
            known = (activation, acts, _steep(activation) if acts else None)
            self._read[id(activation)] = known
        return known[1:]

    def _of(self, layer: Any) -> list[Sight]:
        return self._kernels.get(id(layer), [])

    def _path(self, layer: Any) -> str:
        return self._paths.get(id(layer)) or str(layer.name)

    def _holds_kernels(self, layer: Any) -> bool:
        """Returns whether layers inside a layer have kernels."""
        return holds(layer, self._kernels)


def _look(sight: Sight, value: Any) -> None:
    """Records the moments of a pre-activation."""
    sight.moments.append(mean_square(value))
    if len(sight.moments) == 1:
        sight.mean = number(keras.ops.mean(keras.ops.cast(value, "float32")))


def _keys(kernels: Sequence[Sight]) -> list[int]:
    """Returns the key of the kernel that sets the size of what comes out."""
    return [id(kernels[-1].slot.variable)]


def _dead(value: Any, result: Any, channel: int) -> float | None:
    """Returns the share of units that hardly move while what they are given moves."""
    units = value.shape[channel]
    if math.prod(value.shape) < _FEWEST * units:
        return None
    axes = tuple(axis for axis in range(len(value.shape)) if axis != channel % len(value.shape))

    def moves(tensor: Any) -> Any:
        numbers = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
        return numbers.max(axis=axes) - numbers.min(axis=axes)

    given, made = moves(value), moves(result)
    if not np.isfinite(given).all():
        return None
    return float(np.mean((given > 0.0) & (made <= _STILL * given)))


def _outside(value: Any, bounds: tuple[float, float] | None) -> float:
    """Returns the share of values outside of bounds."""
    if bounds is None:
        return 0.0
    flat = keras.ops.logical_or(value < bounds[0], value > bounds[1])
    return number(keras.ops.mean(keras.ops.cast(flat, "float32")))


def _steep(activation: Any) -> tuple[float, float] | None:
    """Returns the range where an elementwise activation is steep, `None` of what is no sigmoid.

    A sigmoid is flat far away on both sides, and steep on both sides of 0, where signals are.
    """
    if isinstance(activation, keras.layers.PReLU):
        return None  # it has a slope for each place, and is never flat on both sides
    if isinstance(activation, keras.layers.Layer):  # past the hook that shadows its `call`
        activation = partial(type(activation).call, activation)
    grid = np.linspace(-20.0, 20.0, 4001).astype("float32")
    made = keras.ops.convert_to_numpy(activation(keras.ops.convert_to_tensor(grid)))
    slopes = np.abs(np.diff(made)) / np.diff(grid)
    steepest = slopes.max()
    middle = np.flatnonzero(np.abs(grid[:-1]) <= 0.1)
    far = max(slopes[0], slopes[-1])
    if not (far <= _FLAT * steepest and slopes[middle].min() >= _STEEP * steepest > 0.0):
        return None
    steep = np.flatnonzero(slopes > _FLAT * steepest)
    return float(grid[steep[0]]), float(grid[steep[-1] + 1])
