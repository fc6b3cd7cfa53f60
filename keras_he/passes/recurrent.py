"""Recurrent layers, step by step: what the activations of their cells are given.

Keras runs a cell in a scan or a fused kernel, where nothing can be observed. Here the cell is run
once for each step, eagerly, on some samples.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import keras

from keras_he.backend.keras_private import attributes, layers_inside, shadowed
from keras_he.backend.tensors import mean_square
from keras_he.passes.kernel_watcher import LayerCall

ALL_STEPS = 128  # of a sequence that are run at most
_SAMPLES = 16  # of a batch


def cells(layer: keras.layers.RNN) -> list[Any]:
    """Returns the cells of a recurrent layer, in the order in which a step takes them."""
    return list(getattr(layer.cell, "cells", [layer.cell]))


def cell_moments(call: LayerCall, steps: int = ALL_STEPS) -> list[float]:
    """Returns, for each cell, the second moment of what its activations are given.

    It is the mean over the activations (of gates, of a candidate), over the steps and over the
    samples. What becomes a state, as that of an LSTM, does not count. Of a cell without an
    attribute that holds an activation it is that of the outputs of each step.

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
    inner = cells(layer)
    given_to: list[list[Any]] = [[] for _ in inner]  # values of one step
    seen: list[list[float]] = [[] for _ in inner]
    outputs: list[float] = []
    with ExitStack() as stack:
        for cell, values in zip(inner, given_to, strict=True):
            stack.enter_context(shadowed(_recorders(cell, values)))
        for value in keras.ops.unstack(sequence[:, :steps], axis=1):
            output, states = layer.cell(value, states, **keywords)
            outputs.append(mean_square(keras.tree.flatten(output)[0]))
            made = set(map(id, keras.tree.flatten(states)))
            for values, moments in zip(given_to, seen, strict=True):
                moments += [mean_square(one) for one in values if id(one) not in made]
                values.clear()
    _forget_masks(inner)
    return [_mean(moments or outputs) for moments in seen]


def _states(layer: Any, given: Any, samples: int) -> Any:
    """Returns the states with which a layer begins, as its cell takes them."""
    if given is None and getattr(layer, "stateful", False) and layer.states is not None:
        given = layer.states
    if given is None:
        return layer.get_initial_state(samples)
    return keras.tree.map_structure(
        lambda one: keras.ops.convert_to_tensor(one)[:samples], list(given)
    )


def _recorders(cell: Any, values: list[Any]) -> Iterator[tuple[Any, str, Any]]:
    """Yields what shadows the activations of a cell, and of the layers inside it."""

    def recorder(activation: Any) -> Any:
        def recorded(value: Any, *args: Any, **kwargs: Any) -> Any:
            values.append(value)
            return activation(value, *args, **kwargs)

        return recorded

    for layer in layers_inside(cell):
        for name, held in list(attributes(layer).items()):
            if name.endswith("activation") and callable(held):
                yield layer, name, recorder(held)


def _forget_masks(inner: Sequence[Any]) -> None:
    """Lets cells with dropout draw new masks, as Keras does before each call of their layer."""
    for cell in inner:
        for name in ("reset_dropout_mask", "reset_recurrent_dropout_mask"):
            reset = getattr(cell, name, None)
            if callable(reset):
                reset()


def _mean(moments: Sequence[float]) -> float:
    return math.fsum(moments) / len(moments) if moments else 0.0
