"""What happens at each layer of a watched pass: how layers are run, and hooks for each job.

`KernelWatcher` runs the layers. `OriginWatcher` also knows which kernels a layer holds, where its
inputs came from, and which call of a layer with kernels is running, so that it recognizes the input
of a layer's activation as the pre-activation of a kernel.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_he.backend.keras_private import holds, is_of_keras, layers_inside, sublayers
from keras_he.backend.tensors import float_tensors, mean_square
from keras_he.passes.tensor_origins import Origin, Trace


class KernelWatcher:
    """Runs the layers of a pass; its subclasses override `run` and `pre_activation`.

    Args:
        progress: Called after each layer.
    """

    def __init__(self, progress: Callable[[], None] = lambda: None) -> None:
        self._progress = progress

    def on_call(self, call: "LayerCall") -> Any:
        """Returns the outputs of a layer, or of another operation of a functional model."""
        outputs = self.run(call)
        self._progress()
        return outputs

    def on_activation(self, layer: Any, activation: Callable[[Any], Any], value: Any) -> Any:
        """Returns the output of the activation of a layer, given its pre-activation."""
        return activation(self.pre_activation(layer, value))

    def run(self, call: "LayerCall") -> Any:
        """Returns the outputs of a call."""
        return call.run()

    def pre_activation(self, layer: Any, value: Any) -> Any:
        """Returns the value that takes the place of a pre-activation."""
        return value


@dataclass(eq=False)
class LayerCall:
    """A call of a layer.

    Attributes:
        layer: The layer.
        function: Its `call`, without the hook.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        floats: The tensors of floats among the arguments.
        inputs: The origins of these tensors.
        kernels: The records of the kernels that the layer holds.
        new: Those among them that no earlier call used.
        activation: The activation that the first input passed last, `None` for none.
        observed: Whether the pre-activation of its kernel was observed.
        verified: Where a list, it gets the second moments of pre-activations, which pass unchanged.
        final: Whether its kernels have the values that they will have.
    """

    layer: Any
    function: Callable[..., Any]
    args: Any
    kwargs: Any
    floats: Sequence[Any]
    inputs: Sequence[Origin] = ()
    kernels: Sequence[Any] = ()
    new: Sequence[Any] = ()
    activation: Any = None
    observed: bool = False
    verified: list[float] | None = None
    final: bool = False

    def run(self) -> Any:
        """Returns the outputs."""
        if isinstance(self.layer, keras.layers.TimeDistributed):
            return _all_steps(self)
        return self.function(*self.args, **self.kwargs)


class OriginWatcher(KernelWatcher):
    """Knows the kernels of each layer and the origins of tensors.

    Attributes:
        special: Types of layers for which `run` is called although they hold no kernels.
        sees_cells: Whether the kernels of a recurrent layer's cells count as kernels of the layer.
        trace: The origins of tensors.
        called: The layers that were called, by their identity, in the order in which they ended.

    Args:
        kernels: The records of the model's kernels.
        inputs: The input tensors of the model.
        paths: Paths of the layers, by their identity.
        progress: Called after each layer.
    """

    special: tuple[type, ...] = ()
    sees_cells = False

    def __init__(
        self,
        kernels: Iterable[Any],
        inputs: Iterable[Any],
        paths: Mapping[int, str],
        progress: Callable[[], None],
    ) -> None:
        super().__init__(progress)
        self.trace = Trace(inputs)
        self._paths = paths
        self._kernels: dict[int, list[Any]] = {}  # by the identity of the layer
        for one in kernels:
            self._kernels.setdefault(id(one.layer), []).append(one)
        self._calls: list[LayerCall] = []  # calls of layers with kernels, the innermost last
        self._holding: dict[int, bool] = {}
        self._reached = 0
        self.called: dict[int, Any] = {}

    def on_call(self, call: LayerCall) -> Any:
        """Runs a layer, and records where its outputs came from."""
        layer = call.layer
        call.inputs = inputs = self.trace.origins(call.floats)
        call.kernels = self.kernels_of(layer)
        call.new = self.reach(call.kernels)
        call.activation = inputs[0].activation if inputs else None
        own = call.kernels or isinstance(layer, self.special)
        outputs = self.run(call) if own else call.run()
        for tensor in float_tensors(outputs):
            if self.trace.knows(tensor):
                continue
            moment = self.output(call, tensor)
            if call.kernels:
                keys, activation = self.size_keys(call), self.output_activation(call)
                self.trace.kernel_output(tensor, inputs, keys, activation)
            elif self._holds_kernels(layer):
                name = "" if is_of_keras(layer) else self.path(layer)
                self.trace.composed(name, tensor, inputs)
            else:
                self.trace.passed(layer, tensor, inputs, moment)
        self.called.setdefault(id(layer), layer)
        self._progress()
        return outputs

    def on_activation(self, layer: Any, activation: Callable[[Any], Any], value: Any) -> Any:
        """Observes a pre-activation, and applies the activation."""
        if self._calls and self._calls[-1].layer is layer:
            call = self._calls[-1]
            if call.verified is not None:
                call.verified.append(mean_square(value))
                return activation(value)
            call.observed = True
            value = self.kernel_output(call, value)
            self.trace.kernel_output(value, call.inputs, self.size_keys(call))
        (source,) = self.trace.origins([value])
        result = activation(value)
        linear = activation is keras.activations.linear
        if not linear:
            self.activated(layer, activation, value, result, source)
        self.trace.activated(result, source, None if linear else activation)
        return result

    def observe(self, call: LayerCall) -> Any:
        """Returns the outputs of a call; `kernel_output` is called for its pre-activations."""
        self._calls.append(call)
        try:
            return call.run()
        finally:
            self._calls.pop()

    def kernel_output(self, call: LayerCall, value: Any) -> Any:
        """Returns the value that takes the place of the pre-activation of the last kernel."""
        return value

    def activated(
        self, layer: Any, activation: Any, value: Any, result: Any, source: Origin
    ) -> None:
        """Is called after each activation that is not linear, with its input and its output."""

    def output(self, call: LayerCall, tensor: Any) -> float:
        """Returns the second moment of an output of a call."""
        raise NotImplementedError

    def output_activation(self, call: LayerCall) -> Any:
        """Returns the activation that the output of a layer with kernels passed last."""
        return None

    def kernels_of(self, layer: Any) -> Sequence[Any]:
        """Returns the records of the kernels that a call of a layer uses."""
        if self.sees_cells and isinstance(layer, keras.layers.RNN):
            return [
                one for inner in layers_inside(layer) for one in self._kernels.get(id(inner), ())
            ]
        return self._kernels.get(id(layer), ())

    def size_keys(self, call: LayerCall) -> list[int]:
        """Returns the key of the kernel that sets the size of the output of a call."""
        return [id(call.kernels[-1].variable)]

    def reach(self, kernels: Sequence[Any]) -> list[Any]:
        """Gives kernels their places in the order of execution; returns those that are new."""
        new = [kernel for kernel in kernels if kernel.order is None]
        for kernel in new:
            kernel.order = self._reached
            self._reached += 1
        return new

    def path(self, layer: Any) -> str:
        """Returns the path of a layer, or of an operation its name."""
        return self._paths.get(id(layer)) or str(layer.name)

    def _holds_kernels(self, layer: Any) -> bool:
        """Returns whether the layers inside a layer have kernels."""
        if id(layer) not in self._holding:
            self._holding[id(layer)] = holds(layer, self._kernels)
        return self._holding[id(layer)]


def _all_steps(call: LayerCall) -> Any:
    """Runs a `TimeDistributed` on all steps at once, where its layer treats them the same way.

    Keras calls the layer inside for each step, and the first step would decide for all.
    """
    layer, args, kwargs = call.layer, call.args, call.kwargs
    value, inner = args[0], layer.layer
    same = len(args) == 1 and kwargs.get("mask") is None and not sublayers(inner)
    if not same or isinstance(inner, keras.layers.BatchNormalization):
        return call.function(*args, **kwargs)
    takes_training = "training" in inspect.signature(type(inner).call).parameters
    keywords = {"training": kwargs.get("training")} if takes_training else {}
    steps = keras.ops.reshape(value, (-1, *value.shape[2:]))
    outputs = inner.call(steps, **keywords)
    if not keras.ops.is_tensor(outputs):
        return call.function(*args, **kwargs)
    return keras.ops.reshape(outputs, (*value.shape[:2], *outputs.shape[1:]))
