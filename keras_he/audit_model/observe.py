"""One forward pass that observes and changes nothing: the pre-activation of each kernel.

At each call of a layer with kernels the pre-activation is observed, its bias included, and at each
activation which of its units pass no gradient. Of a layer that shows no pre-activation, what it
returns is observed; of a recurrent cell, what its activations are given at each step. Nothing is
assumed of the code of a user's layer. Nothing is refused: NaN, zeros and kernels that are not
linear are what an audit is there to show.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_he.audit_model.kernel_facts import ObservedVariable, Units
from keras_he.backend.framework import framework
from keras_he.backend.keras_private import is_of_keras, layers_inside, sublayers, unhooked_call
from keras_he.backend.randomness import rewound
from keras_he.backend.tensors import float_tensors, mean_square, number
from keras_he.layers.constants import chosen_constants, is_zero
from keras_he.layers.kinds import ACTIVATIONS, first_kernel_output, is_normalisation
from keras_he.notes import NO_NOTE
from keras_he.passes.kernel_watcher import LayerCall, OriginWatcher
from keras_he.passes.preceding_activation import preceding_moments
from keras_he.passes.recurrent import cell_moments, cells
from keras_he.passes.tensor_origins import UNKNOWN, Origin
from keras_he.passes.zeros import Zeros, may_be_zero

_STILL = 1e-3  # a unit whose output moves by less than this share of its input passes no gradient
_FEWEST = 8  # values of a unit, below which nothing is said of it
_STEPS = 8  # of a cell, over which its signal is measured without its biases
_FLAT = 0.05  # share of its steepest slope, below which a sigmoid is saturated
_STEEP = 0.5  # share of its steepest slope that a sigmoid has around 0


class Silence(NamedTuple):
    """A layer that returned zeros for inputs that are not zero, and their second moment."""

    layer: Any
    path: str
    given: float


class Observation(OriginWatcher):
    """The watcher of an audit.

    Args:
        found: The variables of the model.
        scope: The scope of the pass.
        inputs: The input tensors of the model.
        paths: Paths of the layers, by their identity.
        progress: Called after each layer.

    Attributes:
        kernels: The records of the kernels, by the identity of their variable.
        calls: Shapes of pre-activations call by call, by the identity of the layer; of outputs
            where no pre-activation is observed.
        hidden: The identities of the layers of these outputs.
        standing: By the identity of a layer, the kernel that stands for all kernels of the layer.
        broken: Layers that return NaN or infinity for finite inputs, in order.
        silences: Layers that return zeros for other inputs, in order.
        tokens: The identities of tensors that a table reads: numbers of rows, and no signal.
    """

    sees_cells = True

    def __init__(
        self,
        found: Sequence[ObservedVariable],
        scope: keras.StatelessScope,
        inputs: Iterable[Any],
        paths: Mapping[int, str],
        progress: Callable[[], None],
    ) -> None:
        self._biases: dict[int, list[ObservedVariable]] = {}
        for one in found:
            if one.name == "bias" and one.role != "kernel":
                self._biases.setdefault(id(one.layer), []).append(one)
        self.kernels = {id(one.variable): one for one in found if one.role == "kernel"}
        super().__init__(self.kernels.values(), inputs, paths, progress)
        self._scope = scope
        chosen = []
        for kernel in self.kernels.values():
            kernel.chosen = NO_NOTE if kernel.left else chosen_constants(kernel)
            chosen += [kernel.layer] if kernel.chosen and is_zero(kernel) else []
        self._zeros = Zeros(chosen)
        self._read: dict[int, tuple[Any, bool, tuple[float, float] | None]] = {}
        self.calls: dict[int, list[tuple[int, ...]]] = {}
        self.hidden: set[int] = set()
        self.standing: dict[int, ObservedVariable] = {}
        self.broken: list[str] = []
        self.silences: list[Silence] = []
        self.tokens: dict[int, Any] = {}

    def run(self, call: LayerCall) -> Any:
        """Runs a layer, and observes its kernels."""
        layer, kernels = call.layer, call.kernels
        if call.new and call.inputs:
            self._record_inputs(call)
        if not kernels:
            return call.run()
        if isinstance(layer, keras.layers.RNN):
            return self._observe_cells(call) if framework.runs_cells else call.run()
        first_output = first_kernel_output(layer) if len(kernels) > 1 else None
        if first_output is not None:
            _look(kernels[0], first_output(layer, call.args[0]))
        outputs = self.observe(call)
        found = float_tensors(outputs)
        if found and not call.observed:
            if not is_of_keras(layer):
                self._observe_output(call, found[0])
            elif len(kernels) == 1:
                _look(kernels[0], found[0])
        return outputs

    def _observe_cells(self, call: LayerCall) -> Any:
        """Runs a recurrent layer, and observes the kernels of its cells step by step."""
        inside = [part for cell in cells(call.layer) for part in layers_inside(cell)]
        parts = [part for part in inside if self.kernels_of(part)]
        with rewound(self._scope):
            seen = cell_moments(call)
        moments = [seen.of(part) for part in parts]
        signals = self._signals_of_cells(call, parts, moments)
        for part, moment, signal in zip(parts, moments, signals, strict=True):
            kernels = self.kernels_of(part)
            for kernel in kernels:
                kernel.seen = True
            _standing(kernels).moments.append(moment)
            _standing(kernels).offset = max(moment - signal, 0.0)
        outputs = call.run()
        self._stand(call, float_tensors(outputs)[0])
        return outputs

    def _signals_of_cells(
        self, call: LayerCall, parts: Sequence[Any], moments: list[float]
    ) -> list[float]:
        """Returns second moments in cells without their biases, such as a forget gate's."""
        inside = layers_inside(call.layer)
        biases = [one.variable for part in inside for one in self._biases.get(id(part), ())]
        if not any(mean_square(one.value) for one in biases):
            return moments
        with self._as_zeros([one.variable for one in call.kernels]), rewound(self._scope):
            offsets = cell_moments(call, 1)
        with self._as_zeros(biases), rewound(self._scope):
            few = cell_moments(call, _STEPS)
        return [
            max(moment - offsets.of(part), few.of(part))
            for part, moment in zip(parts, moments, strict=True)
        ]

    @contextmanager
    def _as_zeros(self, variables: Iterable[Any]) -> Iterator[None]:
        """Takes variables for zeros inside the block."""
        held = [(one, one.value) for one in variables]  # of the scope, where it has one
        for variable, _ in held:
            self._scope.add_update((variable, keras.ops.zeros_like(variable.value)))
        yield
        for variable, value in held:
            self._scope.add_update((variable, value))

    def _observe_output(self, call: LayerCall, output: Any) -> None:
        """Observes what a user's layer returns, or adds to its own input."""
        branch = output
        trunk = self._trunk(call, output)
        if trunk is not None:
            branch = output - trunk.tensor
            self.output(call, output)  # a tensor whose origin is known is not asked for again
            self.trace.added(output, trunk, branch, call.inputs, self.size_keys(call))
        for kernel in call.kernels:
            kernel.seen = True
        kernel = _standing(call.kernels)
        kernel.stands_for_layer = True
        _look(kernel, branch)
        self._stand(call, output)

    def _trunk(self, call: LayerCall, output: Any) -> Origin | None:
        """Returns the input that a layer adds to what its kernels make, `None` if it adds to none.

        It is what the layer returns with kernels of zeros.
        """
        shapes = {tuple(one.tensor.shape) for one in call.inputs}
        if tuple(output.shape) not in shapes or sublayers(call.layer):
            return None
        with self._as_zeros(one.variable for one in call.kernels):
            found = float_tensors(call.run())
        return self.trace.equal(found[0], call.inputs) if found else None

    def _stand(self, call: LayerCall, output: Any) -> None:
        """Records an output by which the gradient is taken, and the kernel that shows it."""
        self.calls.setdefault(id(call.layer), []).append(tuple(output.shape))
        self.hidden.add(id(call.layer))
        self.standing[id(call.layer)] = _standing(call.kernels)

    def kernel_output(self, call: LayerCall, value: Any) -> Any:
        """Observes a pre-activation."""
        self.calls.setdefault(id(call.layer), []).append(tuple(value.shape))
        kernel = _standing(call.kernels)
        for one in call.kernels if not is_of_keras(call.layer) else ():
            one.seen = True
        _look(kernel, value)
        self._follow_zeros(call, value, kernel.moments[-1])
        return value

    def size_keys(self, call: LayerCall) -> list[int]:
        """Returns the key of the kernel that stands for all kernels of a call."""
        return [id(_standing(call.kernels).variable)]

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
        if moment == 0.0:
            self._record_silence(call)
        if call.kernels:
            kernel = _standing(call.kernels)
            kernel.output_moment = moment if _hides_size(call.layer) else math.nan
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
        kernel.units = Units(activation, self.path(layer))
        if elementwise and tuple(value.shape) == tuple(result.shape):
            first = getattr(kernel.layer, "data_format", None) == "channels_first"
            kernel.units.dead = _dead(value, result, 1 if first and len(value.shape) > 2 else -1)
            kernel.units.saturated = _outside(value, bounds)

    def _record_inputs(self, call: LayerCall) -> None:
        """Records the inputs of a layer's kernels, and the activation that precedes each."""
        if call.kernels and call.kernels[0].is_table:
            self.tokens |= {id(one): one for one in call.floats}
            return  # numbers of rows
        kernels_before = max(one.kernels for one in call.inputs)
        sources = frozenset().union(*(one.sources for one in call.inputs))
        moment = mean_square(call.inputs[0].tensor)
        activations = _preceding(call)
        halves = first_kernel_output(call.layer) is not None
        new = set(map(id, call.new))
        before: ObservedVariable | None = None
        for kernel, activation in zip(call.kernels, activations, strict=True):
            if id(kernel) in new:
                kernel.activation, kernel.sources = activation, sources
                kernel.input_moment, kernel.kernels_before = moment, kernels_before
                if before is not None and halves:
                    kernel.sources = frozenset([id(before.variable)])
            before = kernel

    def _record_silence(self, call: LayerCall) -> None:
        """Records a layer that returns zeros for other inputs, without a reason of its own."""
        given = [mean_square(origin.tensor) for origin in call.inputs]
        own = call.kernels or self._holds_kernels(call.layer)  # which are judged themselves
        if own or not given or not all(given):
            return
        if self._zeros.explains(call.layer, call.inputs):
            return
        if is_normalisation(call.layer) or not may_be_zero(call):
            self.silences.append(Silence(call.layer, self.path(call.layer), given[0]))

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


def _standing(kernels: Sequence[ObservedVariable]) -> ObservedVariable:
    """Returns the kernel beside which the figure of several stands: the last that may change."""
    free = [one for one in kernels if not (one.left or one.chosen)]
    return (free or list(kernels))[-1]


def _preceding(call: LayerCall) -> list[Any]:
    """Returns the activation that precedes each kernel of a layer, as far as it is known.

    None stands between the halves of a separable convolution. What a user's layer applies between
    its kernels is not known, nor what a cell applies to its state.
    """
    count = len(call.kernels)
    if first_kernel_output(call.layer) is not None:
        return [call.activation, *[None] * (count - 1)]
    own = not is_of_keras(call.kernels[0].layer)
    first = UNKNOWN if own and count > 1 else call.activation
    return [first, *[UNKNOWN] * (count - 1)]


def _hides_size(layer: Any) -> bool:
    """Returns whether the output of a layer is not of size 1, nor linear in its kernels."""
    return isinstance(layer, (keras.layers.RNN, keras.layers.Embedding))


def _look(kernel: ObservedVariable, value: Any) -> None:
    """Records the moments of a pre-activation."""
    kernel.seen = True
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
