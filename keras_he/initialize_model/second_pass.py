"""Passes with kernels that are known: looking back at the gradient, and at the model as it will be.

With `mode="fan_out"` or `"fan_avg"` the gradient is measured too, along chains, and the kernels get
other sizes than those that were passed on. Without random masks, the moving statistics are those
that inference will see.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_he.backend.tensors import mean_square
from keras_he.initialize_model.planned_variable import Entry
from keras_he.passes.backward import backward
from keras_he.passes.losses import random_direction
from keras_he.passes.moving_statistics import MovingStatistics


class Look:
    """A watcher that records the second moments of pre-activations, their biases included.

    Args:
        entries: The variables of the model. In training mode the moments of their kernels are
            recorded anew.
        scope: The scope of the pass.
        training: Whether it is a pass in training mode. In inference mode, too, a
            `BatchNormalization` takes the statistics of its batch.
    """

    def __init__(
        self, entries: Sequence[Entry], scope: keras.StatelessScope, training: bool
    ) -> None:
        self.statistics = MovingStatistics(scope, always=not training)
        self._kernels: dict[int, Entry] = {}
        if training:
            for entry in entries:
                entry.moments.clear()
                if entry.slot.role == "kernel":
                    self._kernels[id(entry.slot.layer)] = entry

    def on_call(self, layer: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Runs a layer."""
        if isinstance(layer, keras.layers.BatchNormalization):
            return self.statistics.call(layer, call, args, kwargs)
        return call(*args, **kwargs)

    def on_activation(self, layer: Any, activation: Callable[[Any], Any], value: Any) -> Any:
        """Records the second moment of a pre-activation."""
        entry = self._kernels.get(id(layer))
        if entry is not None:
            entry.moments.append(mean_square(value))
        return activation(value)


def backward_moments(
    model: Any, inputs: Any, state: list[tuple[Any, Any]], chain: Sequence[Entry], seed: int
) -> list[float]:
    """Returns the second moments of a random output's gradient by each pre-activation of a chain.

    Args:
        model: The model.
        inputs: What it is called with.
        state: What its variables hold.
        chain: Kernels of layers that are called once each.
        seed: Seed of the output, a sum of all outputs weighted by standard normal draws.
    """
    shapes = {id(entry.slot.layer): [entry.output_shape] for entry in chain}
    found = backward(model, inputs, shapes, random_direction(seed), seed, state=state)
    return [mean_square(found.activations[id(entry.slot.layer)][0]) for entry in chain]
