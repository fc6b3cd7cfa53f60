"""The gradient of a loss of a model's outputs, by pre-activations and by kernels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_he.backend.framework import framework
from keras_he.backend.randomness import randomness
from keras_he.passes.forward import forward
from keras_he.passes.kernel_watcher import KernelWatcher
from keras_he.passes.losses import Loss


class Gradients(NamedTuple):
    """Gradients by the pre-activations of each call, by layer, and by variables, in order."""

    activations: dict[int, list[Any]]
    variables: list[Any]


class _Zeros(KernelWatcher):
    """Adds zeros to pre-activations, by which the gradient is computed.

    Args:
        zeros: By the identity of a layer, one tensor for each of its calls.
        progress: Called after each layer.
    """

    def __init__(self, zeros: Mapping[int, Sequence[Any]], progress: Callable[[], None]) -> None:
        super().__init__(progress)
        self._left = {key: iter(tensors) for key, tensors in zeros.items()}

    def pre_activation(self, layer: Any, value: Any) -> Any:
        """Returns a pre-activation with zeros added."""
        zeros = next(self._left.get(id(layer), iter(())), None)
        return value if zeros is None else value + keras.ops.cast(zeros, value.dtype)


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
        loss: A function from the model's outputs to a number.
        seed: Seed of all random numbers during the pass.
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
        with randomness(seed), keras.StatelessScope():
            return loss(outputs)

    values = [keras.ops.convert_to_tensor(one.value) for one in variables]
    values += [keras.ops.zeros(shape) for _, shape in keys]
    found = framework.gradients(total, values) if values else []
    activations: dict[int, list[Any]] = {}
    for (key, _), gradient in zip(keys, found[count:], strict=True):
        activations.setdefault(key, []).append(gradient)
    return Gradients(activations, list(found[:count]))
