"""Passes over the model as it will be, from which the figures of the report come.

Nothing is scaled and nothing is assumed here: the kernels have their final values, and what a layer
makes of its input is measured at every call, in training and in inference mode. A third pass is
differentiated. With `mode="fan_out"` or `"fan_avg"` the gradient along a chain is measured before
the kernels have their final sizes.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Literal

import keras

from keras_he.backend.framework import framework
from keras_he.backend.keras_private import is_of_keras, layers_inside
from keras_he.backend.randomness import rewound
from keras_he.backend.tensors import float_tensors, mean_square, second_moments
from keras_he.initialize_model.planned_variable import PlannedVariable
from keras_he.layers.kinds import first_kernel_output
from keras_he.passes.backward import backward
from keras_he.passes.kernel_watcher import LayerCall, OriginWatcher
from keras_he.passes.losses import random_direction
from keras_he.passes.moving_statistics import MovingStatistics
from keras_he.passes.recurrent import cell_moments, cells

Statistics = Literal["training", "batch", "moving"]
State = Sequence[tuple[Any, Any]]  # pairs of variables and their values


class Verification(OriginWatcher):
    """Measures the second moments of pre-activations, without their biases.

    Of a layer that shows no pre-activation, it measures what the layer returns; of a layer that
    returns anything without its kernels, such as its own input, what they add; of a recurrent
    cell, what its activations are given.

    Args:
        found: The variables of the model.
        scope: The scope of the pass, which holds the final values.
        inputs: The input tensors of the model.
        paths: Paths of the layers, by their identity.
        progress: Called after each layer.
        statistics: What a `BatchNormalization` uses: the statistics of its batch as a pass in
            training mode does (`"training"`), those in inference mode too (`"batch"`), or the
            moving statistics in the scope (`"moving"`).

    Attributes:
        moments: Second moments call by call, by the identity of the kernel's variable.
        calls: Shapes of pre-activations call by call, by the identity of the layer; of outputs
            where no pre-activation is observed.
        hidden: The identities of these layers.
    """

    special = (keras.layers.RNN, keras.layers.BatchNormalization)

    def __init__(
        self,
        found: Sequence[PlannedVariable],
        scope: keras.StatelessScope,
        inputs: Iterable[Any],
        paths: Mapping[int, str],
        progress: Callable[[], None],
        *,
        statistics: Statistics,
    ) -> None:
        self._biases = {id(one.layer): one for one in found if one.adds_bias}
        super().__init__([one for one in found if one.role == "kernel"], inputs, paths, progress)
        self._scope = scope
        self._takes_statistics = statistics != "moving"
        self.statistics = MovingStatistics(scope, always=statistics == "batch")
        self.moments: dict[int, list[float]] = {}
        self.calls: dict[int, list[tuple[int, ...]]] = {}
        self.hidden: set[int] = set()

    def run(self, call: LayerCall) -> Any:
        """Runs a layer, and measures its kernels."""
        layer, kernels = call.layer, call.kernels
        if isinstance(layer, keras.layers.BatchNormalization):
            return self.statistics.run(call) if self._takes_statistics else call.run()
        if isinstance(layer, keras.layers.RNN):
            self._measure_cells(call)
            outputs = call.run()
            self._record_output(layer, float_tensors(outputs)[0])
            return outputs
        first_output = first_kernel_output(layer) if len(kernels) > 1 else None
        if first_output is not None:
            self._add(kernels[:1], mean_square(first_output(layer, call.args[0])))
        outputs = self.observe(call)
        found = float_tensors(outputs)
        if not (call.observed or is_of_keras(layer)) and found:
            branch = found[0]
            if any(one.has_offset for one in kernels):
                offset = self._offset(call)
                trunk = self.trace.equal(offset, call.inputs)
                # Of several kernels, what a gate lets through is part of what they return.
                if trunk is not None or len(kernels) == 1:
                    branch = branch - offset
                if trunk is not None:
                    self.trace.added(found[0], trunk, branch, call.inputs, self.size_keys(call))
            self._add(kernels, mean_square(branch))
            self._record_output(layer, found[0])
        return outputs

    def kernel_output(self, call: LayerCall, value: Any) -> Any:
        """Measures a pre-activation."""
        self.calls.setdefault(id(call.layer), []).append(tuple(value.shape))
        bias = self._biases.get(id(call.layer))
        without = value if bias is None else value - bias.beside(value)
        self._add(call.kernels, mean_square(without))
        return value

    def output(self, call: LayerCall, tensor: Any) -> float:
        """Returns the second moment of an output."""
        return mean_square(tensor)

    def _measure_cells(self, call: LayerCall) -> None:
        inner = [part for cell in cells(call.layer) for part in layers_inside(cell)]
        holding = [part for part in inner if self.kernels_of(part)]
        if holding and framework.runs_cells:
            with rewound(self._scope):
                moments = cell_moments(call)
            for part in holding:
                self._add(self.kernels_of(part), moments.of(part))

    def _add(self, kernels: Sequence[PlannedVariable], moment: float) -> None:
        """Records a second moment, of several kernels with the one that is shown for them."""
        if kernels:
            self.moments.setdefault(id(shown(kernels).variable), []).append(moment)

    def _record_output(self, layer: Any, tensor: Any) -> None:
        """Records the shape of an output by which the gradient is taken."""
        self.calls.setdefault(id(layer), []).append(tuple(tensor.shape))
        self.hidden.add(id(layer))

    def _offset(self, call: LayerCall) -> Any:
        """Returns what a layer returns with kernels of zeros."""
        values = [
            (one.variable, self._scope.get_current_value(one.variable))
            for one in call.kernels
            if one.is_set
        ]
        for variable, _ in values:
            self._scope.add_update((variable, keras.ops.zeros_like(variable.value)))
        with rewound(self._scope):
            found = float_tensors(call.run())
        for variable, value in values:
            self._scope.add_update((variable, variable.value if value is None else value))
        return found[0] if found else 0.0


def shown(kernels: Sequence[PlannedVariable]) -> PlannedVariable:
    """Returns the kernel beside which the figure of several stands: the last that set it."""
    measured = [one for one in kernels if one.rule.startswith("measured")]
    return (measured or list(kernels))[-1]


def backward_moments(
    model: Any,
    inputs: Any,
    state: State,
    shapes: Mapping[int, Sequence[tuple[int, ...]]],
    seed: int,
    hidden: Container[int] = (),
) -> dict[int, list[float]]:
    """Returns the second moments of a random output's gradient by each pre-activation.

    Args:
        model: The model.
        inputs: What it is called with.
        state: Pairs of variables and their values.
        shapes: By the identity of a layer, the shapes of its pre-activations, call by call.
        hidden: The identities of layers whose outputs take the place of pre-activations.
        seed: Seed of the output, a sum of all outputs weighted by standard normal draws.
    """
    found = backward(
        model, inputs, shapes, random_direction(seed), seed, state=state, hidden=hidden
    )
    return {key: second_moments(each) for key, each in found.activations.items()}
