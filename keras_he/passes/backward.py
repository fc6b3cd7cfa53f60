"""The gradient of a number that a model's outputs give: by pre-activations, and by kernels."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import keras

from keras_he.backend.tensors import gradients
from keras_he.passes.forward import forward
from keras_he.passes.losses import Loss
from keras_he.passes.special_layers import all_steps


class Gradients(NamedTuple):
    """Gradients by the pre-activations of each call, by layer, and by variables, in order."""

    activations: dict[int, list[Any]]
    variables: list[Any]


class _Zeros:
    """A watcher that adds zeros to pre-activations, by which the gradient is taken.

    Args:
        zeros: By the identity of a layer, one tensor for each of its calls.
        progress: Called after each layer.
    """

    def __init__(self, zeros: Mapping[int, Sequence[Any]], progress: Callable[[], None]) -> None:
        self._progress = progress
        self._left = {key: iter(tensors) for key, tensors in zeros.items()}

    def on_call(self, layer: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Runs a layer."""
        if isinstance(layer, keras.layers.TimeDistributed):
            call = partial(all_steps, layer, call)
        outputs = call(*args, **kwargs)
        self._progress()
        return outputs

    def on_activation(self, layer: Any, activation: Callable[[Any], Any], value: Any) -> Any:
        """Adds zeros to a pre-activation."""
        zeros = next(self._left.get(id(layer), iter(())), None)
        if zeros is not None:
            value = value + keras.ops.cast(zeros, value.dtype)
        return activation(value)


def backward(
    model: Any,
    inputs: Any,
    shapes: Mapping[int, Sequence[tuple[int, ...]]],
    loss: Loss,
    seed: int,
    *,
    state: Sequence[tuple[Any, Any]] = (),
    variables: Sequence[Any] = (),
    progress: Callable[[], None] = lambda: None,
) -> Gradients:
    """Returns the gradients of a loss, in training mode; writes nothing.

    Args:
        model: The model.
        inputs: What it is called with.
        shapes: By the identity of a layer, the shapes of its pre-activations, call by call.
        loss: Makes a number of the model's outputs.
        seed: Seed of PyTorch's generator during the pass.
        state: What variables hold in place of their own values.
        variables: Variables by which the gradient is taken too.
        progress: Called after each layer.
    """
    keys = [(key, shape) for key, each in shapes.items() for shape in each]
    count = len(variables)

    def total(values: list[Any]) -> Any:
        mapping = [*state, *zip(variables, values[:count], strict=True)]
        zeros: dict[int, list[Any]] = {}
        for (key, _), value in zip(keys, values[count:], strict=True):
            zeros.setdefault(key, []).append(value)
        scope = keras.StatelessScope(state_mapping=mapping)
        outputs = forward(model, inputs, scope, _Zeros(zeros, progress), seed, differentiable=True)
        return loss(outputs)

    values = [keras.ops.convert_to_tensor(one.value) for one in variables]
    found = gradients(total, values + [keras.ops.zeros(shape) for _, shape in keys])
    activations: dict[int, list[Any]] = {}
    for (key, _), gradient in zip(keys, found[count:], strict=True):
        activations.setdefault(key, []).append(gradient)
    return Gradients(activations, list(found[:count]))
