"""One eager forward pass, in which a watcher sees the inputs and outputs of each layer.

Hooks are attributes of the layer objects, `call` and `activation`, which shadow those of the class
during the pass. A hook on `layer.__call__` would miss calls, because `TimeDistributed` calls
`layer.call`. The pass runs inside `keras.StatelessScope`, so on every backend no variable, moving
statistic or seed of the model is written. Whatever a layer may draw random numbers from is set from
the seed of the pass, and put back, so that two passes draw the same. On some backends recurrent
cells run in scans and fused kernels, where hooks see no values, so cells are not watched on any
backend.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import keras

from keras_he.backend.framework import framework
from keras_he.backend.keras_private import layers_inside, operations, own_activations, shadowed
from keras_he.backend.randomness import randomness
from keras_he.backend.tensors import eager_floats
from keras_he.errors import KerasHeError, NotEager
from keras_he.passes.kernel_watcher import KernelWatcher, LayerCall


def forward(
    model: Any,
    batch: Any,
    scope: keras.StatelessScope,
    watcher: KernelWatcher,
    seed: int,
    *,
    training: bool = True,
    differentiable: bool = False,
) -> Any:
    """Runs a model once, eagerly, and writes nothing.

    Args:
        model: A built model.
        batch: The inputs of the model.
        scope: Holds the values of variables during the pass, and the updates of the pass.
        watcher: Called in place of the `call` and the `activation` of the model and its layers.
        seed: Seed of all random numbers during the pass.
        training: Whether the model runs in training mode.
        differentiable: Whether the pass is differentiated; on JAX its values are symbolic then.

    Raises:
        NotEager: If a layer gets symbolic values in a pass that is not differentiated.
    """
    raised: list[KerasHeError] = []
    layers = watched(model)
    activations = own_activations(layers)
    hooks = _hooks(layers, activations, watcher, raised, differentiable)
    with ExitStack() as stack:
        stack.enter_context(framework.apart(gradients=differentiable))
        stack.enter_context(framework.functions_in_python())
        stack.enter_context(randomness(seed, holders(model)))
        stack.enter_context(shadowed(hooks))
        stack.enter_context(scope)
        try:
            return model(batch, training=training)
        except Exception:
            if raised:  # Keras and TensorFlow wrap it in their own exceptions
                raise raised[0] from None
            raise


def watched(model: Any) -> list[Any]:
    """Returns a model, the layers inside it, and the operations of functional ones, each once."""
    found: dict[int, Any] = {}
    for layer in layers_inside(model, closed=(keras.layers.RNN,)):
        found[id(layer)] = layer
        if isinstance(layer, keras.Model):
            for one in operations(layer):
                found[id(one)] = one
    return list(found.values())


def holders(model: Any) -> list[Any]:
    """Returns what may hold generators: a model, all layers inside it, and its operations."""
    found = {id(one): one for one in [*layers_inside(model), *watched(model)]}
    return list(found.values())


def _hooks(
    layers: list[Any],
    activations: list[tuple[Any, Callable[..., Any]]],
    watcher: KernelWatcher,
    raised: list[KerasHeError],
    differentiable: bool,
) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    def guarded(layer: Any, hook: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            try:
                floats = [] if differentiable else eager_floats((args, kwargs))
                if floats is None:
                    raise _not_eager(layer)
                return hook(floats, args, kwargs)
            except KerasHeError as error:
                raised.append(error)
                raise

        return called

    for one in layers:
        yield one, "call", guarded(one, partial(_call, watcher, one, one.call))
    for one, activation in activations:
        yield one, "activation", guarded(one, partial(_activation, watcher, one, activation))


def _call(
    watcher: KernelWatcher, layer: Any, function: Any, floats: list[Any], args: Any, kwargs: Any
) -> Any:
    return watcher.on_call(LayerCall(layer, function, args, kwargs, floats))


def _activation(
    watcher: KernelWatcher, layer: Any, activation: Any, floats: list[Any], args: Any, kwargs: Any
) -> Any:
    return watcher.on_activation(layer, activation, *args, **kwargs)


def _not_eager(layer: Any) -> NotEager:
    return NotEager(
        f"`{getattr(layer, 'path', layer.name)}` must be given values, not symbols, to be "
        "measured: it runs in compiled, scanned or rematerialized code. Remove `tf.function`, "
        "`jax.jit`, the scan or `RematScope` while you initialize, or give `data=False`, which "
        "measures nothing."
    )
