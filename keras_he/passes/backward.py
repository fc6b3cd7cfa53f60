"""The gradient of a loss of a model's outputs, by pre-activations and by kernels."""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import keras

from keras_he.backend.framework import framework
from keras_he.backend.randomness import randomness
from keras_he.passes.forward import forward
from keras_he.passes.kernel_watcher import KernelWatcher, LayerCall
from keras_he.passes.losses import Loss


class Gradients(NamedTuple):
    """Gradients by the pre-activations of each call, by layer, and by variables, in order."""

    activations: dict[int, list[Any]]
    variables: list[Any]


class Extreme(NamedTuple):
    """Where the gradient vanishes or explodes, by positions among the kernels.

    Attributes:
        verdict: `"vanishing"` if all kernels before the culprit get little, `"exploding"` if all
            from it on do.
        culprit: The kernel at which it begins.
        best: The one with the most among those that get little.
        largest: The one with the most of all.
    """

    verdict: str
    culprit: int
    best: int
    largest: int


def extremes(
    energies: Sequence[float], limit: float, intended: Sequence[float] | None = None
) -> Iterator[Extreme]:
    """Yields where the gradient vanishes or explodes on its way back.

    Single branches that get little, such as those with a layer scale, are left out, and so are
    kernels whose gradient is 0 or infinite.

    Args:
        energies: Squared length, for one sample, of the gradient by each pre-activation, in the
            order of execution. The width of a layer and its number of positions do not change it.
        limit: The factor between two energies that is too much.
        intended: Factors that a last kernel takes off on purpose, of its own energy; `None` for 1.
    """
    seen = [place for place, energy in enumerate(energies) if 0.0 < energy < math.inf]
    if not seen:
        return
    passed_on = [
        energy * factor
        for energy, factor in zip(energies, intended or [1.0] * len(energies), strict=True)
    ]
    largest = max(seen, key=passed_on.__getitem__)
    little = passed_on[largest] / limit
    before = list(takewhile(lambda place: passed_on[place] < little, seen))
    behind = list(takewhile(lambda place: energies[place] < little, reversed(seen)))
    for verdict, small, step in (("vanishing", before, 1), ("exploding", behind, 0)):
        if small:
            best = max(small, key=energies.__getitem__)
            yield Extreme(verdict, seen[seen.index(small[-1]) + step], best, largest)


class _Zeros(KernelWatcher):
    """Adds zeros to pre-activations, by which the gradient is computed.

    Args:
        zeros: By the identity of a layer, one tensor for each of its calls.
        progress: Called after each layer.
        hidden: The identities of layers whose outputs take the place of pre-activations.
    """

    def __init__(
        self,
        zeros: Mapping[int, Sequence[Any]],
        progress: Callable[[], None],
        hidden: Container[int],
    ) -> None:
        super().__init__(progress)
        self._hidden = hidden
        self._left = {key: iter(tensors) for key, tensors in zeros.items()}

    def run(self, call: LayerCall) -> Any:
        """Runs a layer, and adds zeros to its first output where no pre-activation is observed."""
        outputs = call.run()
        if id(call.layer) not in self._hidden:
            return outputs
        first, *others = keras.tree.flatten(outputs)
        plain = self.pre_activation(call.layer, first)
        return keras.tree.pack_sequence_as(outputs, [plain, *others])

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
    hidden: Container[int] = (),
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
        hidden: The identities of layers whose outputs take the place of pre-activations.
    """
    keys = [(key, shape) for key, each in shapes.items() for shape in each]
    count = len(variables)

    def total(values: list[Any]) -> Any:
        mapping = [*state, *zip(variables, values[:count], strict=True)]
        zeros: dict[int, list[Any]] = {}
        for (key, _), value in zip(keys, values[count:], strict=True):
            zeros.setdefault(key, []).append(value)
        scope = keras.StatelessScope(state_mapping=mapping)
        watcher = _Zeros(zeros, progress, hidden)
        outputs = forward(model, inputs, scope, watcher, seed, differentiable=True)
        with randomness(seed), keras.StatelessScope():
            return loss(outputs)

    values = [keras.ops.convert_to_tensor(one.value) for one in variables]
    values += [keras.ops.zeros(shape) for _, shape in keys]
    found = framework.gradients(total, values) if values else []
    activations: dict[int, list[Any]] = {}
    for (key, _), gradient in zip(keys, found[count:], strict=True):
        activations.setdefault(key, []).append(gradient)
    return Gradients(activations, list(found[:count]))
