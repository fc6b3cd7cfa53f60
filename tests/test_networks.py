"""What the initializers are for: thirty layers that keep the signal and the gradient."""

import keras
import numpy as np
import pytest
from autodiff import gradients

import keras_he  # noqa: F401  # registers the strings

DEPTH = 30
SEEDS = range(10)


class WrappedConvolution(keras.layers.Layer):
    """A 3×3 convolution after wrap padding, so that no border takes signal away."""

    def __init__(self, channels, initializer):
        super().__init__()
        self.convolution = keras.layers.Conv2D(channels, 3, kernel_initializer=initializer)

    def call(self, x):
        x = keras.ops.concatenate([x[:, -1:], x, x[:, :1]], axis=1)
        return self.convolution(keras.ops.concatenate([x[:, :, -1:], x, x[:, :, :1]], axis=2))


def dense(initializer):
    return keras.layers.Dense(512, kernel_initializer=initializer)


def convolution(initializer):
    return WrappedConvolution(256, initializer)


KINDS = {"dense": (dense, (16, 512)), "convolution": (convolution, (1, 4, 4, 256))}


def change_over_depth(kind, initializer, slope, seed):
    """Returns the log ratio, last to first layer, of pre-activations' and gradients' size."""
    keras.utils.set_random_seed(seed)
    layer, shape = KINDS[kind]
    layers = [layer(initializer) for _ in range(DEPTH)]
    rectifiers = [keras.layers.PReLU(keras.initializers.Constant(slope)) for _ in range(DEPTH)]
    x = np.random.default_rng(seed).standard_normal(shape).astype("float32")
    direction = np.random.default_rng(seed + 1000).standard_normal(shape).astype("float32")
    moments = []

    def loss(shifts):
        moments.clear()
        h = keras.ops.convert_to_tensor(x)
        for inner, rectifier, shift in zip(layers, rectifiers, shifts, strict=True):
            y = inner(h) + shift
            moments.append(keras.ops.mean(keras.ops.square(y)))
            h = rectifier(y)
        return keras.ops.sum(h * keras.ops.convert_to_tensor(direction))

    zeros = [np.zeros(shape, "float32") for _ in range(DEPTH)]
    loss([keras.ops.convert_to_tensor(zero) for zero in zeros])  # builds and measures, untraced
    forward = [float(keras.ops.convert_to_numpy(moment)) for moment in moments]
    backward = [np.mean(gradient**2) for gradient in gradients(loss, zeros)]
    return np.log([forward[-1] / forward[0], backward[0] / backward[-1]])


def mean_change(kind, initializer, slope=0.25, seeds=SEEDS):
    """Returns the geometric mean over seeds of both ratios."""
    changes = [change_over_depth(kind, initializer, slope, seed) for seed in seeds]
    return np.exp(np.mean(changes, axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_he_prelu_keeps_signal_and_gradient_over_thirty_layers(kind):
    signal, gradient = mean_change(kind, "he_prelu")
    assert 1 / 2 <= signal <= 2
    assert 1 / 2 <= gradient <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_keras_default_does_not(kind):
    """Glorot's variance keeps 0.53 of the second moment a layer: 30 of them leave 6e-9."""
    signal, gradient = mean_change(kind, "glorot_uniform", seeds=range(2))
    assert signal < 1e-6
    assert gradient < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_he_prelu_does_not_fit_the_slope_of_keras_prelu(kind):
    """Slope 0 keeps 1/1.0625 of the second moment a layer: 0.17 after the 29 between."""
    signal, gradient = mean_change(kind, "he_prelu", slope=0.0, seeds=range(5))
    assert signal < 1 / 2
    assert gradient < 1 / 2


def test_he_relu_fits_the_slope_of_keras_prelu():
    signal, gradient = mean_change("dense", "he_relu", slope=0.0)
    assert 1 / 2 <= signal <= 2
    assert 1 / 2 <= gradient <= 2
