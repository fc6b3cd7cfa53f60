"""Recurrent layers, step by step: what the activations of their cells are given.

Keras runs a cell in a scan or a fused kernel, where nothing can be observed. Here the cell is run
once for each step, eagerly, on some samples.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras

from keras_he.backend.keras_private import attributes, layers_inside, shadowed
from keras_he.backend.tensors import mean_square
from keras_he.passes.kernel_watcher import LayerCall

ALL_STEPS = 128  # of a sequence that are run at most
_SAMPLES = 16  # of a batch


def cells(layer: keras.layers.RNN) -> list[Any]:
    """Returns the cells of a recurrent layer, in the order in which a step takes them."""
    return list(getattr(layer.cell, "cells", [layer.cell]))


class CellMoments(NamedTuple):
    """Second moments of a recurrent layer, over the steps and the samples.

    Attributes:
        layers: By the identity of a cell, or of a layer inside it, of what its activations are
            given: the mean over gates and a candidate. What becomes a state, as that of an LSTM,
            does not count.
        output: Of what the cells return.
    """

    layers: dict[int, float]
    output: float

    def of(self, layer: Any) -> float:
        """Returns that of a layer, or of what the cells return, where it shows no activation."""
        return self.layers.get(id(layer), self.output)


def cell_moments(call: LayerCall, steps: int = ALL_STEPS) -> CellMoments:
    """Returns the second moments in the cells of a recurrent layer, run step by step.

    Args:
        call: A call of a recurrent layer. Nothing is written.
        steps: The number of steps that are run at most.
    """
    layer = call.layer
    given = inspect.signature(type(layer).call).bind_partial(layer, *call.args, **call.kwargs)
    sequence = keras.tree.flatten(given.arguments.get("sequences", call.args[0]))[0]
    sequence = keras.ops.cast(sequence[:_SAMPLES], layer.compute_dtype)
    if layer.go_backwards:
        sequence = keras.ops.flip(sequence, axis=1)
    states = _states(layer, given.arguments.get("initial_state"), len(sequence))
    takes_training = "training" in inspect.signature(type(layer.cell).call).parameters
    keywords = {"training": bool(call.kwargs.get("training"))} if takes_training else {}
    values: list[tuple[Any, Any]] = []  # layers and what their activations get, of one step
    seen: dict[int, list[float]] = {}
    outputs: list[float] = []
    with shadowed(_recorders(layer.cell, values)):
        for value in keras.ops.unstack(sequence[:, :steps], axis=1):
            output, states = layer.cell(value, states, **keywords)
            outputs.append(mean_square(keras.tree.flatten(output)[0]))
            made = set(map(id, keras.tree.flatten(states)))
            for inner, one in values:
                if id(one) not in made:
                    seen.setdefault(id(inner), []).append(mean_square(one))
            values.clear()
    _forget_masks(cells(layer))
    return CellMoments({key: _mean(each) for key, each in seen.items()}, _mean(outputs))


def _states(layer: Any, given: Any, samples: int) -> Any:
    """Returns the states with which a layer begins, as its cell takes them."""
    if given is None and getattr(layer, "stateful", False) and layer.states is not None:
        given = layer.states
    if given is None:
        return layer.get_initial_state(samples)
    return keras.tree.map_structure(
        lambda one: keras.ops.convert_to_tensor(one)[:samples], list(given)
    )


def _recorders(cell: Any, values: list[tuple[Any, Any]]) -> Iterator[tuple[Any, str, Any]]:
    """Yields what shadows the activations of a cell, and of the layers inside it."""

    def recorder(layer: Any, activation: Any) -> Any:
        def recorded(value: Any, *args: Any, **kwargs: Any) -> Any:
            values.append((layer, value))
            return activation(value, *args, **kwargs)

        return recorded

    for layer in layers_inside(cell):
        for name, held in list(attributes(layer).items()):
            if name.endswith("activation") and callable(held):
                yield layer, name, recorder(layer, held)


def _forget_masks(inner: Sequence[Any]) -> None:
    """Lets cells with dropout draw new masks, as Keras does before each call of their layer."""
    for cell in inner:
        for name in ("reset_dropout_mask", "reset_recurrent_dropout_mask"):
            reset = getattr(cell, name, None)
            if callable(reset):
                reset()


def _mean(moments: Sequence[float]) -> float:
    return math.fsum(moments) / len(moments) if moments else 0.0
