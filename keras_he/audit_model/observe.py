"""One forward pass that observes and changes nothing: the pre-activation of each kernel.

At each call of a layer with kernels the pre-activation is observed, its bias included, and at each
activation which of its units pass no gradient. Nothing is refused: NaN, zeros and kernels that are
not linear are what an audit is there to show.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_he.audit_model.kernel_facts import ObservedVariable, Units
from keras_he.backend.keras_private import unhooked_call
from keras_he.backend.tensors import float_tensors, mean_square, number
from keras_he.layers.constants import chosen_constants, is_zero
from keras_he.layers.kinds import ACTIVATIONS, first_kernel_output, is_normalisation
from keras_he.notes import NO_NOTE
from keras_he.passes.kernel_watcher import LayerCall, OriginWatcher
from keras_he.passes.preceding_activation import preceding_moments
from keras_he.passes.tensor_origins import UNKNOWN, Origin
from keras_he.passes.zeros import Zeros

_STILL = 1e-3  # a unit whose output moves by less than this share of its input passes no gradient
_FEWEST = 8  # values of a unit, below which nothing is said of it
_FLAT = 0.05  # share of its steepest slope, below which a sigmoid is saturated
_STEEP = 0.5  # share of its steepest slope that a sigmoid has around 0


class Observation(OriginWatcher):
    """The watcher of an audit.

    Args:
        found: The variables of the model.
        inputs: The input tensors of the model.
        paths: Paths of the layers, by their identity.
        progress: Called after each layer.

    Attributes:
        kernels: The records of the kernels, by the identity of their variable.
        calls: Shapes of pre-activations call by call, by the identity of the layer.
        broken: Layers that return NaN or infinity for finite inputs, in order.
    """

    sees_cells = True

    def __init__(
        self,
        found: Iterable[ObservedVariable],
        inputs: Iterable[Any],
        paths: Mapping[int, str],
        progress: Callable[[], None],
    ) -> None:
        self.kernels = {id(one.variable): one for one in found if one.role == "kernel"}
        super().__init__(self.kernels.values(), inputs, paths, progress)
        chosen = []
        for kernel in self.kernels.values():
            kernel.chosen = NO_NOTE if kernel.left else chosen_constants(kernel)
            chosen += [kernel.layer] if kernel.chosen and is_zero(kernel) else []
        self._zeros = Zeros(chosen)
        self._read: dict[int, tuple[Any, bool, tuple[float, float] | None]] = {}
        self.calls: dict[int, list[tuple[int, ...]]] = {}
        self.broken: list[str] = []

    def run(self, call: LayerCall) -> Any:
        """Runs a layer, and observes its kernels."""
        layer, kernels = call.layer, call.kernels
        if call.new and call.inputs:
            self._record_inputs(call)
        if not kernels or isinstance(layer, keras.layers.RNN):
            return call.run()
        first_output = first_kernel_output(layer) if len(kernels) > 1 else None
        if first_output is not None:
            _look(kernels[0], first_output(layer, call.args[0]))
        outputs = self.observe(call)
        if not call.observed and len(kernels) == 1 and float_tensors(outputs):
            _look(kernels[0], float_tensors(outputs)[0])
        return outputs

    def kernel_output(self, call: LayerCall, value: Any) -> Any:
        """Observes a pre-activation."""
        self.calls.setdefault(id(call.layer), []).append(tuple(value.shape))
        _look(call.kernels[-1], value)
        self._follow_zeros(call, value, call.kernels[-1].moments[-1])
        return value

    def _follow_zeros(self, call: LayerCall, tensor: Any, moment: float) -> None:
        """Records whether zeros, of an output or a pre-activation, are by choice."""
        if moment == 0.0 and self._zeros.returned(call, tensor):
            for kernel in call.kernels:
                kernel.silenced = True

    def output_activation(self, call: LayerCall) -> Any:
        """Returns the activation that an output passed: unknown of a table or a recurrent layer."""
        return UNKNOWN if _hides_size(call.layer) else None

    def output(self, call: LayerCall, tensor: Any) -> float:
        """Returns the second moment of an output, and observes activations and normalisations."""
        moment = mean_square(tensor)
        if not math.isfinite(moment):
            self._break(call)
        self._follow_zeros(call, tensor, moment)
        if call.kernels:
            call.kernels[-1].output_moment = moment if _hides_size(call.layer) else math.nan
        if isinstance(call.layer, ACTIVATIONS) and call.inputs:
            source = call.inputs[0]
            self.activated(call.layer, call.layer, source.tensor, tensor, source)
        if is_normalisation(call.layer):
            for origin in call.inputs:
                for key in origin.nearest:
                    self.kernels[key].normalised = True
        return moment

    def activated(
        self, layer: Any, activation: Any, value: Any, result: Any, source: Origin
    ) -> None:
        """Records what an activation does, with the kernel that precedes it."""
        self._zeros.activated(value, result)
        nearest = [self.kernels[key] for key in source.nearest if key in self.kernels]
        if len(nearest) != 1 or nearest[0].units is not None:
            return
        kernel = nearest[0]
        elementwise, bounds = self._kind(activation)
        kernel.units = Units(activation)
        if elementwise and tuple(value.shape) == tuple(result.shape):
            first = getattr(kernel.layer, "data_format", None) == "channels_first"
            kernel.units.dead = _dead(value, result, 1 if first and len(value.shape) > 2 else -1)
            kernel.units.saturated = _outside(value, bounds)

    def _record_inputs(self, call: LayerCall) -> None:
        """Records the inputs of a layer's kernels; of a later kernel the one before it."""
        kernels_before = max(one.kernels for one in call.inputs)
        sources = frozenset().union(*(one.sources for one in call.inputs))
        moment = mean_square(call.inputs[0].tensor)
        new = set(map(id, call.new))
        before: ObservedVariable | None = None
        for kernel in call.kernels:
            if id(kernel) in new and before is None:
                kernel.activation, kernel.sources = call.activation, sources
                kernel.input_moment, kernel.kernels_before = moment, kernels_before
            elif id(kernel) in new and before is not None:
                # No activation stands between the halves of a separable convolution.
                kernel.sources = frozenset([id(before.variable)])
                kernel.input_moment, kernel.kernels_before = before.input_moment, kernels_before
            before = kernel

    def _break(self, call: LayerCall) -> None:
        """Names a layer whose output is NaN or infinity, if its inputs are not."""
        path = self.path(call.layer)
        inner = any(one.startswith(f"{path}/") for one in self.broken)
        if not inner and all(math.isfinite(mean_square(origin.tensor)) for origin in call.inputs):
            self.broken.append(path)

    def _kind(self, activation: Any) -> tuple[bool, tuple[float, float] | None]:
        """Returns whether an activation acts element by element, and where a sigmoid is steep."""
        known = self._read.get(id(activation))
        if known is None:
            acts = preceding_moments(activation) is not None
            known = (activation, acts, _steep(activation) if acts else None)
            self._read[id(activation)] = known
        return known[1:]


def _hides_size(layer: Any) -> bool:
    """Returns whether the output of a layer is not of size 1, nor linear in its kernels."""
    return isinstance(layer, (keras.layers.RNN, keras.layers.Embedding))


def _look(kernel: ObservedVariable, value: Any) -> None:
    """Records the moments of a pre-activation."""
    kernel.moments.append(mean_square(value))
    if len(kernel.moments) == 1:
        kernel.mean = number(keras.ops.mean(keras.ops.cast(value, "float32")))


def _dead(value: Any, result: Any, channel: int) -> float | None:
    """Returns the share of units that hardly move while their pre-activation moves."""
    units = value.shape[channel]
    if math.prod(value.shape) < _FEWEST * units:
        return None
    axes = tuple(axis for axis in range(len(value.shape)) if axis != channel % len(value.shape))

    def moves(tensor: Any) -> Any:
        numbers = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
        return numbers.max(axis=axes) - numbers.min(axis=axes)

    before, after = moves(value), moves(result)
    if not np.isfinite(before).all():
        return None
    return float(np.mean((before > 0.0) & (after <= _STILL * before)))


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
        activation = unhooked_call(activation)
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
