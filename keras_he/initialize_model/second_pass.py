"""Passes with kernels that are known: for the gradient, and for the model as it will be.

With `mode="fan_out"` or `"fan_avg"` the gradient is measured too, along chains, and the kernels get
other sizes than those that were passed on. Without random masks, the moving statistics are those
that inference will see.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_he.backend.tensors import mean_square
from keras_he.initialize_model.planned_variable import PlannedVariable
from keras_he.passes.backward import backward
from keras_he.passes.kernel_watcher import KernelWatcher, LayerCall
from keras_he.passes.losses import random_direction
from keras_he.passes.moving_statistics import MovingStatistics


class FinalPass(KernelWatcher):
    """Records the second moments of pre-activations, their biases included.

    Args:
        found: The variables of the model. In training mode the moments of their kernels are
            replaced.
        scope: The scope of the pass.
        training: Whether it is a pass in training mode. In inference mode, too, a
            `BatchNormalization` uses the statistics of its batch.
    """

    def __init__(
        self, found: Sequence[PlannedVariable], scope: keras.StatelessScope, training: bool
    ) -> None:
        super().__init__()
        self.statistics = MovingStatistics(scope, always=not training)
        self._kernels: dict[int, PlannedVariable] = {}
        for one in found if training else ():
            one.moments.clear()
            if one.role == "kernel":
                self._kernels[id(one.layer)] = one

    def run(self, call: LayerCall) -> Any:
        """Runs a layer."""
        if isinstance(call.layer, keras.layers.BatchNormalization):
            return self.statistics.run(call)
        return call.function(*call.args, **call.kwargs)

    def pre_activation(self, layer: Any, value: Any) -> Any:
        """Records the second moment of a pre-activation."""
        if id(layer) in self._kernels:
            self._kernels[id(layer)].moments.append(mean_square(value))
        return value


def backward_moments(
    model: Any,
    inputs: Any,
    state: Sequence[tuple[Any, Any]],
    chain: Sequence[PlannedVariable],
    seed: int,
) -> list[float]:
    """Returns the second moments of a random output's gradient by each pre-activation of a chain.

    Args:
        model: The model.
        inputs: What it is called with.
        state: Pairs of variables and their values.
        chain: Kernels of layers that are called once each.
        seed: Seed of the output, a sum of all outputs weighted by standard normal draws.
    """
    shapes = {id(one.layer): [one.output_shape] for one in chain}
    found = backward(model, inputs, shapes, random_direction(seed), seed, state=state)
    return [mean_square(found.activations[id(one.layer)][0]) for one in chain]
