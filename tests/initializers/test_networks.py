"""What the initializers are for: thirty layers that keep the signal and the gradient."""

import keras
import numpy as np
import pytest
from autodiff import gradients

import keras_he

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


def moments_over_depth(layers, activations, x, seed=0):
    """Returns second moments by layer: of the pre-activations, and of the gradient by them."""
    direction = np.random.default_rng(seed + 1000).standard_normal(x.shape).astype("float32")
    signal = []

    def loss(shifts):
        signal.clear()
        h = keras.ops.convert_to_tensor(x)
        for layer, activation, shift in zip(layers, activations, shifts, strict=True):
            y = layer(h) + shift
            signal.append(y)
            h = activation(y)
        return keras.ops.sum(h * keras.ops.convert_to_tensor(direction))

    zeros = [np.zeros(x.shape, "float32") for _ in layers]
    loss([keras.ops.convert_to_tensor(zero) for zero in zeros])  # builds and measures, untraced
    forward = [keras.ops.convert_to_numpy(y).astype(np.float64) for y in signal]
    backward = gradients(loss, zeros)
    return tuple(np.array([np.mean(y**2) for y in values]) for values in (forward, backward))


def normal(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "dense")) for kind in KINDS]
)


def change_over_depth(kind, initializer, slope, seed):
    """Returns the log ratio, last to first layer, of pre-activations' and gradients' size."""
    keras.utils.set_random_seed(seed)
    layer, shape = KINDS[kind]
    layers = [layer(initializer) for _ in range(DEPTH)]
    rectifiers = [keras.layers.PReLU(keras.initializers.Constant(slope)) for _ in range(DEPTH)]
    signal, gradient = moments_over_depth(layers, rectifiers, normal(shape, seed), seed)
    return np.log([signal[-1] / signal[0], gradient[0] / gradient[-1]])


def mean_change(kind, initializer, slope=0.25, seeds=SEEDS):
    """Returns the geometric mean over seeds of both ratios."""
    changes = [change_over_depth(kind, initializer, slope, seed) for seed in seeds]
    return np.exp(np.mean(changes, axis=0))


@every_kind
def test_he_prelu_keeps_signal_and_gradient_over_thirty_layers(kind):
    signal, gradient = mean_change(kind, "he_prelu")
    assert 1 / 2 <= signal <= 2
    assert 1 / 2 <= gradient <= 2


@every_kind
def test_keras_default_does_not(kind):
    """Glorot's variance keeps 0.53 of the second moment a layer: 30 of them leave 6e-9."""
    signal, gradient = mean_change(kind, "glorot_uniform", seeds=range(2))
    assert signal < 1e-6
    assert gradient < 1e-6


@every_kind
def test_he_prelu_does_not_fit_the_slope_of_keras_prelu(kind):
    """Slope 0 keeps 1/1.0625 of the second moment a layer: 0.17 after the 29 between."""
    signal, gradient = mean_change(kind, "he_prelu", slope=0.0, seeds=range(5))
    assert signal < 1 / 2
    assert gradient < 1 / 2


@pytest.mark.slow
def test_he_relu_fits_the_slope_of_keras_prelu():
    signal, gradient = mean_change("dense", "he_relu", slope=0.0)
    assert 1 / 2 <= signal <= 2
    assert 1 / 2 <= gradient <= 2


# Activations that are functions of Keras; PReLU with the paper's slope is a layer.
FAMILY = ["relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "mish", "softplus", "tanh"]


def function(name):
    if name == "prelu":
        return keras.layers.PReLU(keras.initializers.Constant(0.25))
    return keras.activations.get(name)


def chain(names, x, seed):
    """Returns the moments over dense layers with the string of the activation in front of each.

    The first says `he_linear`, for its input passed no activation.
    """
    keras.utils.set_random_seed(seed)
    strings = [f"he_{name}" for name in ("linear", *names[:-1])]
    return moments_over_depth([dense(s) for s in strings], [function(n) for n in names], x, seed)


@pytest.mark.slow
def test_each_string_suits_the_activation_in_front():
    names = [*FAMILY, "linear"]
    logs = [np.log(chain(names, normal((32, 512), seed), seed)[0]) for seed in range(20)]
    assert np.abs(np.mean(logs, axis=0)).max() <= np.log(1.25)


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", FAMILY)
def test_ten_layers_keep_the_signal_and_depth_factors_tell_the_rest(name):
    """Feeds the same weights inputs of second moment 1 and 1.05, for twenty seeds."""
    signals, growths, gradients = [], [], []
    for seed in range(20):
        x = normal((32, 512), seed)
        x /= np.sqrt(np.mean(x**2))
        signal, gradient = chain([name] * 10, x, seed)
        larger, _ = chain([name] * 10, np.float32(np.sqrt(1.05)) * x, seed)
        signals.append(np.log(signal))
        growths.append(np.log(larger / signal))
        gradients.append(np.log(gradient))
    assert np.abs(np.mean(signals, axis=0)).max() <= np.log(1.25)

    factors = keras_he.depth_factors(name)
    error = np.mean(growths, axis=0)
    # A signal that heals is followed down to a tenth of the error; below, scatter shows.
    last = max(layer for layer in range(1, 10) if factors.signal**layer >= 0.09)
    assert (error[last] / error[0]) ** (1 / last) == pytest.approx(factors.signal, rel=0.05)
    size = np.mean(gradients, axis=0)
    assert np.exp((size[0] - size[-1]) / 9) == pytest.approx(factors.gradient, rel=0.05)
