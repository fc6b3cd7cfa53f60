"""What can be measured of a model from outside: signals, gradients and residual trunks.

Knows nothing of keras_he. A pass runs eagerly in a `keras.StatelessScope`, so that nothing is
written, with `call` and the activations of single layer objects replaced for a while. What a layer
with kernels is measured at:

- Keras' dense, einsum and convolution layers: the pre-activation, which is what `activation` gets;
- Keras' recurrent cells: what the activations of their gates get, all gates and steps together. The
  cell runs step by step;
- lookup tables, and layers of the user's own: the output.
"""

import contextlib
import math
from collections import defaultdict

import keras
import numpy as np
from keras import layers, ops
from watch import FIRST_HALF, SEPARABLE, Watch, holders, replaced

__all__ = ["FIRST_HALF", "SEPARABLE", "decades", "gradients", "holders", "measure", "trunk"]


def measure(model, batch, training, bias=True):
    """Returns the mean squares of each layer with kernels, a number for each call, by key.

    Args:
        model: A built model.
        batch: Its inputs.
        training: Whether to run in training mode.
        bias: Whether biases count. Otherwise they are subtracted, and from the output of a user's
            layer with one kernel what it returns with a kernel of zeros. Recurrent cells keep
            theirs.

    Returns:
        From the keys of `holders` to mean squares in the order of the calls. The steps of a
        recurrent layer or of `TimeDistributed` make one number. The first half of a separable
        convolution has a key of its own.
    """
    sums = defaultdict(lambda: [0.0, 0])

    def see(key, call, value):
        total = sums[key, call]
        squares, count = _squares(value)
        total[0] += squares
        total[1] += count
        return value

    _run(model, batch, training, see, bias)
    return _by_key({place: total / count for place, (total, count) in sums.items()})


def gradients(model, batch, training=True, seed=0):
    """Returns the mean squares of the gradient by what `measure` measures, in the same form.

    The gradient is that of a random direction of the outputs. Zeros are added where `measure`
    looks, and the gradient is taken by these zeros.
    """
    places, zeros = [], []

    def collect(key, call, value):
        places.append((key, call))
        zeros.append(ops.zeros(value.shape))
        return value

    rng = np.random.default_rng(seed)
    outputs = _floats(_run(model, batch, training, collect))
    directions = [
        ops.convert_to_tensor(rng.standard_normal(tuple(one.shape)).astype("float32"))
        for one in outputs
    ]

    def along(added):
        left = iter(added)
        results = _run(
            model,
            batch,
            training,
            lambda key, call, value: value + ops.cast(next(left), value.dtype),
        )
        products = (
            ops.sum(ops.cast(result, "float32") * direction)
            for result, direction in zip(_floats(results), directions, strict=True)
        )
        return sum(products)

    sums = defaultdict(lambda: [0.0, 0])
    for place, gradient in zip(places, _gradients(along, zeros), strict=True):
        squares, count = _squares(gradient)
        sums[place][0] += squares
        sums[place][1] += count
    return _by_key({place: total / count for place, (total, count) in sums.items()})


def trunk(model, batch, training=True):
    """Returns the mean squares of all sums between layers, in the order in which they run.

    Sums are `keras.layers.Add`, and `+` in functional models, at any depth.
    """
    moments = []

    def look(run):
        def call(*args, **kwargs):
            output = run(*args, **kwargs)
            squares, count = _squares(output)
            moments.append(squares / count)
            return output

        return call

    with contextlib.ExitStack() as stack, keras.StatelessScope():
        for one in _sums(model):
            stack.enter_context(replaced(one, "call", look(one.call)))
        model(batch, training=training)
    return moments


def decades(moments):
    """Returns log10 of the largest over the smallest; infinite if one is 0, NaN or infinite."""
    values = list(moments)
    if not values:
        return 0.0
    if not all(0.0 < value < math.inf for value in values):
        return math.inf
    return math.log10(max(values) / min(values))


def _sums(model):
    """Yields the operations that add, each once."""
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Add):
            yield layer
        for operation in getattr(layer, "operations", ()):
            # The class of `+` is not public. Layers were seen above.
            if type(operation).__name__ == "Add" and not isinstance(operation, layers.Layer):
                yield operation


def _squares(tensor):
    """Returns the sum of the squares of a tensor, in float64, and how many there are."""
    values = ops.convert_to_numpy(ops.cast(tensor, "float32")).astype("float64")
    return float(np.sum(np.square(values))), values.size


def _by_key(numbers):
    found = defaultdict(list)
    for (key, _), number in numbers.items():
        found[key].append(number)
    return dict(found)


def _floats(outputs):
    return [
        one
        for one in keras.tree.flatten(outputs)
        if "float" in keras.backend.standardize_dtype(one.dtype)
    ]


def _run(model, batch, training, see, bias=True):
    scope = keras.StatelessScope()
    with Watch(model, see, None if bias else scope), scope:
        return model(batch, training=training)


def _gradients(function, zeros):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            for zero in zeros:
                tape.watch(zero)
            result = function(zeros)
        return tape.gradient(result, zeros, unconnected_gradients="zero")
    if backend == "jax":
        import jax

        return jax.grad(function)(zeros)
    import torch

    zeros = [zero.detach().requires_grad_() for zero in zeros]
    found = torch.autograd.grad(function(zeros), zeros, allow_unused=True)
    pairs = zip(zeros, found, strict=True)
    return [torch.zeros_like(zero) if one is None else one for zero, one in pairs]
