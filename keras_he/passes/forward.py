"""One forward pass that is watched: what each layer is given and returns, eagerly.

Hooks are attributes of the layer objects, `call` and `activation`, which shadow the class's as long
as the pass lasts: `layer.__call__` would be too late, for `TimeDistributed` calls `layer.call`.
The pass runs inside `keras.StatelessScope`, so no variable, moving statistic or seed of the model
is written, on any backend. Recurrent cells run in scans and fused kernels on some backends, where
nothing can be seen, so no backend looks into them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import keras

from keras_he.backend.framework import framework
from keras_he.backend.keras_private import layers_inside, operations, shadowed
from keras_he.errors import KerasHeError, NotEager
from keras_he.passes.kernel_watcher import KernelWatcher


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
        batch: What the model is called with.
        scope: Holds the values that variables have during the pass, and what it would have written.
        watcher: Called in place of the `call` and the `activation` of the model and its layers.
        seed: Seed of PyTorch's generator during the pass.
        training: Whether it runs in training mode.
        differentiable: Whether it is run for its gradient, on JAX with symbolic values.

    Raises:
        NotEager: If a layer was given symbolic values.
    """
    raised: list[KerasHeError] = []
    with ExitStack() as stack:
        stack.enter_context(framework.apart(seed, gradients=differentiable))
        stack.enter_context(shadowed(_hooks(model, watcher, raised, differentiable)))
        stack.enter_context(scope)
        try:
            return model(batch, training=training)
        except Exception:
            if raised:  # what Keras and TensorFlow wrapped in exceptions of their own
                raise raised[0] from None
            raise


def watched(model: Any) -> list[Any]:
    """Returns a model, the layers inside it, and the operations of functional ones, each once."""
    found: dict[int, Any] = {}
    for layer in layers_inside(model, closed=(keras.layers.RNN,)):
        found[id(layer)] = layer
        if isinstance(layer, keras.Model):
            found.update({id(one): one for one in operations(layer)})
    return list(found.values())


def _hooks(
    model: Any, watcher: KernelWatcher, raised: list[KerasHeError], differentiable: bool
) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    def guarded(one: Any, hook: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            try:
                if not differentiable:
                    _check_eager(one, (args, kwargs))
                return hook(*args, **kwargs)
            except KerasHeError as error:
                raised.append(error)
                raise

        return called

    for one in watched(model):
        yield one, "call", guarded(one, partial(_call, watcher, one, one.call))
        activation = getattr(one, "activation", None)
        # Of an activation layer it is all there is to it, and of a recurrent one it is the cell's.
        own = not isinstance(one, (keras.layers.RNN, keras.layers.Activation))
        if own and callable(activation) and isinstance(one, keras.layers.Layer):
            yield one, "activation", guarded(one, partial(watcher.on_activation, one, activation))


def _call(
    watcher: KernelWatcher, layer: Any, call: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    return watcher.on_call(layer, call, args, kwargs)


def _check_eager(layer: Any, values: Any) -> None:
    """Refuses symbolic values."""
    if any(framework.is_symbolic(value) for value in keras.tree.flatten(values)):
        raise NotEager(
            f"`{getattr(layer, 'path', layer.name)}` must be given values, not symbols, to be "
            "measured: it stands in compiled, scanned or rematerialized code. Take `tf.function`, "
            "`jax.jit`, the scan or `RematScope` away while you initialize, or give `data=False`, "
            "which measures nothing."
        )
