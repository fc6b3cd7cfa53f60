"""Gradients by the automatic differentiation of whichever backend Keras runs on."""

import keras
import numpy as np


def gradients(loss, inputs):
    """Returns the gradient of `loss(list of tensors)`, a scalar, by each of the arrays `inputs`."""
    tensors = [keras.ops.convert_to_tensor(x) for x in inputs]
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(tensors)
        found = tape.gradient(value, tensors)
    elif backend == "jax":
        import jax

        found = jax.grad(loss)(tensors)
    else:
        import torch

        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        found = torch.autograd.grad(loss(leaves), leaves)
    return [keras.ops.convert_to_numpy(gradient).astype(np.float64) for gradient in found]


def kernel_gradients(model, batch, loss):
    """Returns the gradients of a loss of the outputs by all trainable weights, in training mode.

    By the framework itself, from the weights that the model holds.
    """
    inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape, keras.StatelessScope():
            result = loss(model(inputs, training=True))
        return tape.gradient(result, [one.value for one in model.trainable_variables])
    if backend == "jax":
        import jax

        def function(values):
            others = [one.value for one in model.non_trainable_variables]
            return loss(model.stateless_call(values, others, inputs, training=True)[0])

        return jax.grad(function)([one.value for one in model.trainable_variables])
    import torch

    with keras.StatelessScope():
        result = loss(model(inputs, training=True))
    return torch.autograd.grad(result, [one.value for one in model.trainable_variables])
