"""What an outsider sees of a model's signal: the second moment of every pre-activation.

Knows nothing of keras_he: it shadows `activation` of layers that have a kernel, and, for those that
have none, looks at what the layer returns.
"""

import math
from contextlib import contextmanager
from functools import partial

import keras
import numpy as np


def layers_with_kernels(model):
    """Returns the leaf layers that apply a kernel and then `activation`, by their path."""
    kinds = (
        keras.layers.Dense,
        keras.layers.EinsumDense,
        keras.layers.Conv1D,
        keras.layers.Conv2D,
        keras.layers.Conv3D,
        keras.layers.Conv1DTranspose,
        keras.layers.Conv2DTranspose,
        keras.layers.Conv3DTranspose,
        keras.layers.DepthwiseConv1D,
        keras.layers.DepthwiseConv2D,
        keras.layers.SeparableConv1D,
        keras.layers.SeparableConv2D,
    )
    return [layer for layer in model._flatten_layers() if isinstance(layer, kinds)]


@contextmanager
def watched(model, hook):
    """Puts `hook(layer, activation, value)` in place of each layer's activation, for a while."""
    layers = layers_with_kernels(model)
    before = [(layer, vars(layer).get("activation")) for layer in layers]
    try:
        for layer in layers:
            vars(layer)["activation"] = partial(hook, layer, layer.activation)
        yield
    finally:
        for layer, activation in before:
            if activation is None:
                del vars(layer)["activation"]
            else:
                vars(layer)["activation"] = activation


def second_moments(model, batch, *, training=True):
    """Returns the second moment of each pre-activation of each call, by layer, in order."""
    seen = {}

    def look(layer, activation, value):
        numbers = keras.ops.convert_to_numpy(keras.ops.cast(value, "float32"))
        moment = float(np.mean(np.square(numbers.astype("float64"))))
        seen.setdefault(f"{layer.path}@{id(layer)}", []).append(moment)
        return activation(value)

    # The scope takes what the pass would write, such as moving statistics.
    with watched(model, look), keras.StatelessScope():
        model(batch, training=training)
    return seen


def factor(moments):
    """Returns the largest over the smallest of second moments; infinite if one is 0 or NaN."""
    values = list(moments)
    if not all(math.isfinite(value) and value > 0 for value in values):
        return math.inf
    return max(values) / min(values)


def gradient_moments(model, batch, *, seed=0):
    """Returns the second moment of a random output's gradient by each pre-activation, in order.

    A zero is added to every pre-activation, and the gradient is taken by these zeros.
    """
    shapes = _walk(model, batch, None)[1]
    rng = np.random.default_rng(seed)

    def output(zeros):
        results = keras.tree.flatten(_walk(model, batch, zeros)[0])
        total = 0.0
        for result, direction in zip(results, directions, strict=True):
            total = total + keras.ops.sum(keras.ops.cast(result, "float32") * direction)
        return total

    outputs = keras.tree.flatten(_walk(model, batch, None)[0])
    directions = [
        keras.ops.convert_to_tensor(rng.standard_normal(tuple(one.shape)).astype("float32"))
        for one in outputs
    ]
    zeros = [keras.ops.zeros(shape) for shape in shapes]
    gradients = _gradients(output, zeros)
    return [
        float(np.mean(np.square(keras.ops.convert_to_numpy(one).astype("float64"))))
        for one in gradients
    ]


def _gradients(function, zeros):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            for zero in zeros:
                tape.watch(zero)
            result = function(zeros)
        return tape.gradient(result, zeros)
    if backend == "jax":
        import jax

        return jax.grad(function)(zeros)
    import torch

    zeros = [zero.requires_grad_() for zero in zeros]
    return torch.autograd.grad(function(zeros), zeros)


def _walk(model, batch, zeros):
    """Returns the outputs in training mode, and the shapes of the pre-activations in order."""
    shapes = []

    def add(layer, activation, value):
        shapes.append(tuple(value.shape))
        if zeros is not None:
            value = value + keras.ops.cast(zeros[len(shapes) - 1], value.dtype)
        return activation(value)

    with watched(model, add), keras.StatelessScope():
        return model(batch, training=True), shapes


def moments_aside_from_merges(model, report, batch, *, training=True):
    """Returns the second moments of all pre-activations but those in front of a sum."""
    scaled = [row for row in report.kernels if row.target != 1.0]
    seen = second_moments(model, batch, training=training)
    apart = {
        id(layer)
        for layer in layers_with_kernels(model)
        for row in scaled
        if tuple(layer.kernel.shape) == row.shape and row.path.split("/")[-2] == layer.name
    }
    # Keras calls a layer for each step, and it is measured on all of them.
    steps = {
        id(inner)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.TimeDistributed)
        for inner in layer._flatten_layers()
    }
    by_layer = {int(key.rpartition("@")[2]): moments for key, moments in seen.items()}
    return [
        np.mean(moments) if key in steps else moments[0]
        for key, moments in by_layer.items()
        if key not in apart
    ]
