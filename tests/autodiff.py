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
