"""`gain` and `depth_factors` of what a Keras user has: names, functions, layers, callables."""

import math
from functools import partial

import keras
import numpy as np
import pytest

import keras_he

BACKEND = keras.backend.backend()
ops = keras.ops


def squared_gain(value):
    return 1 / value**2


# E[f²] and E[f'²] by hand or from tables: Φ(1) and so on by math.erf.
def phi(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def below(x):
    return (1 + math.erf(x / math.sqrt(2))) / 2


def clipped_relu(limit):
    """E[min(max(z, 0), c)²] and the share of z where its slope is 1."""
    inside = below(limit) - 0.5 - limit * phi(limit)
    return inside + limit**2 * (1 - below(limit)), below(limit) - 0.5


def shifted_relu(start):
    """Keras' threshold: z where z > t, else 0."""
    return (1 - below(start)) + start * phi(start), 1 - below(start)


LAYERS = {
    "ReLU": (keras.layers.ReLU(), (0.5, 0.5)),
    "ReLU(6)": (keras.layers.ReLU(max_value=6), clipped_relu(6)),
    "ReLU(1)": (keras.layers.ReLU(max_value=1), clipped_relu(1)),
    "ReLU(threshold)": (keras.layers.ReLU(threshold=0.7), shifted_relu(0.7)),
    "ReLU(slope)": (keras.layers.ReLU(negative_slope=0.3), (0.545, 0.545)),
    "LeakyReLU": (keras.layers.LeakyReLU(), (0.545, 0.545)),
    "PReLU": (keras.layers.PReLU(), (0.5, 0.5)),
    "PReLU(ones)": (keras.layers.PReLU("ones"), (1.0, 1.0)),
    "Activation": (keras.layers.Activation("relu6"), clipped_relu(6)),
    "Activation of a function": (keras.layers.Activation(np.abs), (1.0, 1.0)),
    "ELU(0)": (keras.layers.ELU(alpha=0.0), (0.5, 0.5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_count_with_their_real_parameters(name):
    layer, (signal, gradient) = LAYERS[name]
    assert squared_gain(keras_he.gain(layer)) == pytest.approx(signal, rel=1e-7)
    assert squared_gain(keras_he.gain(layer, mode="fan_out")) == pytest.approx(gradient, rel=1e-7)


def test_a_built_prelu_counts_with_its_slopes():
    layer = keras.layers.PReLU(shared_axes=[1, 2])
    layer.build((None, 4, 4, 2))
    layer.alpha.assign(np.array([[[0.3, 0.4]]], "float32"))
    assert squared_gain(keras_he.gain(layer)) == pytest.approx((1 + 0.125) / 2, rel=1e-6)


CALLABLES = {
    "numpy": lambda x: x / (1 + np.exp(-1.7 * x)),
    "keras.ops": lambda x: x * ops.sigmoid(1.7 * x),
    "partial": partial(lambda x, slope: x * ops.sigmoid(slope * x), slope=1.7),
}
# Of x·sigmoid(1.7x), by SciPy's quad on the two halves of the line.
SWISH = (0.42181735401, 0.44941548772)


@pytest.mark.parametrize("name", CALLABLES)
def test_callables_need_no_registration(name):
    gain, backward = (keras_he.gain(CALLABLES[name], mode=m) for m in ("fan_in", "fan_out"))
    assert (squared_gain(gain), squared_gain(backward)) == pytest.approx(SWISH, rel=1e-6)


def spline(x):
    """Thirteen pieces between twelve kinks, by operations of Keras."""
    kinks = np.sort(np.random.default_rng(4).uniform(-3, 3, 12))
    changes = np.random.default_rng(5).normal(size=12)
    return sum(float(c) * ops.relu(x - float(k)) for c, k in zip(changes, kinks, strict=True))


def test_kinks_of_a_tensor_function_are_found_on_every_backend():
    """Independent: on each piece the function is linear, and the moments are those of a line."""
    kinks = np.sort(np.random.default_rng(4).uniform(-3, 3, 12))
    changes = np.random.default_rng(5).normal(size=12)
    edges = np.concatenate([[-40.0], kinks, [40.0]])
    signal = gradient = slope = offset = 0.0
    for low, high, change, kink in zip(
        edges[:-1], edges[1:], [0.0, *changes], [0.0, *kinks], strict=True
    ):
        slope, offset = slope + change, offset - change * kink
        mass = below(high) - below(low)
        first = phi(low) - phi(high)
        second = mass + low * phi(low) - high * phi(high)
        signal += slope**2 * second + 2 * slope * offset * first + offset**2 * mass
        gradient += slope**2 * mass
    assert squared_gain(keras_he.gain(spline)) == pytest.approx(signal, rel=1e-6)
    assert squared_gain(keras_he.gain(spline, mode="fan_out")) == pytest.approx(gradient, rel=1e-6)


def test_functions_of_the_backend_are_callables():
    if BACKEND == "tensorflow":
        import tensorflow as tf

        functions = [tf.nn.tanh, tf.math.tanh]
    elif BACKEND == "jax":
        import jax

        functions = [jax.numpy.tanh, jax.jit(jax.numpy.tanh)]
    else:
        import torch

        functions = [torch.tanh, torch.nn.Tanh(), torch.nn.functional.tanh]
    for function in functions:
        assert keras_he.gain(function) == pytest.approx(keras_he.gain("tanh"), rel=1e-4)


class Swish(keras.layers.Layer):
    def call(self, x):
        return x * ops.sigmoid(1.7 * x)


class Scaled(keras.layers.Layer):
    """An activation with one trained number."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones", name="factor")

    def call(self, x):
        return ops.relu(x) * self.factor


def test_custom_layers_count_as_they_are_and_stay_unbuilt():
    layer = Swish()
    assert squared_gain(keras_he.gain(layer)) == pytest.approx(SWISH[0], rel=1e-6)
    assert not layer.built
    scaled = Scaled()
    with pytest.raises(keras_he.KerasHeError, match="Build the layer first"):
        keras_he.gain(scaled)
    assert not scaled.built
    scaled.build((None, 3))
    scaled.factor.assign(3.0)
    assert keras_he.gain(scaled) == pytest.approx(math.sqrt(2) / 3, rel=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float32", "float64"])
def test_the_dtype_policy_changes_no_gain(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        assert squared_gain(keras_he.gain(Swish())) == pytest.approx(SWISH[0], rel=1e-6)
    finally:
        keras.config.set_dtype_policy(before)


class Tripled(keras.layers.Activation):
    """A subclass of a known layer with a call of its own."""

    def call(self, x):
        return 3 * super().call(x)


class Quiet(keras.layers.ReLU):
    """A subclass that changes nothing."""


class Bare(keras.layers.Layer):
    """A layer as people write them, which cannot be made again from its config."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def call(self, x):
        return x * ops.sigmoid(self.slope * x)


def test_subclasses_count_by_their_own_call():
    assert keras_he.gain(Tripled("relu")) == pytest.approx(math.sqrt(2) / 3, rel=1e-6)
    assert keras_he.KaimingNormal(Quiet()).activation == "relu"
    bare = Bare(1.0)
    bare.slope = 1.7
    assert squared_gain(keras_he.gain(bare)) == pytest.approx(SWISH[0], rel=1e-6)


def test_an_activation_that_is_zero_where_it_matters_is_refused():
    dead = keras.layers.ReLU(max_value=0.0)
    with pytest.raises(keras_he.KerasHeError, match=r"above 0 and finite.*\n.*`gain=`"):
        keras_he.gain(dead)
    with pytest.raises(keras_he.KerasHeError, match=r"moments are finite, and E\[f²\] above 0"):
        keras_he.depth_factors(dead)


def test_an_infinite_slope_leaves_the_forward_gain():
    """E[|z|] is sqrt(2/pi); the slope of the root at 0 has no second moment."""
    assert squared_gain(keras_he.gain(root)) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-6)
    with pytest.raises(keras_he.KerasHeError, match="above 0 and finite"):
        keras_he.gain(root, mode="fan_out")
    with pytest.raises(keras_he.KerasHeError, match="moments are finite"):
        keras_he.depth_factors(root)


def root(x):
    return np.sign(x) * np.sqrt(np.abs(x))


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "selu", "hard_tanh", "softplus"])
def test_keras_functions_are_their_names(name):
    function = getattr(keras.activations, name)
    assert keras_he.gain(function) == keras_he.gain(name)
    assert keras_he.KaimingNormal(function).activation == name


def test_aliases_are_their_functions():
    assert keras_he.gain("swish") == keras_he.gain("silu")
    assert keras_he.KaimingNormal("hard_swish").activation == "hard_silu"


REFUSED = {
    "softmax": ("softmax", "acts across elements"),
    "softmax layer": (keras.layers.Softmax(), "acts across elements"),
    "glu": (keras.activations.glu, "acts across elements"),
    "sparsemax": ("sparsemax", "acts across elements"),
    "maxout": (lambda x: ops.max(ops.reshape(x, (-1, 2)), axis=-1), "shape"),
    "softmax of ops": (lambda x: ops.softmax(x), "acts across elements"),
    "zero": (lambda x: 0 * x, r"E\[f\(z\)²\] = 0"),
    "not finite": (lambda x: 1 / np.sqrt(np.maximum(x, 0)), ""),
    "random": (lambda x: x + np.random.default_rng().normal(size=x.shape), "deterministic"),
    "class": (keras.layers.ReLU, "Pass an instance"),
    "number": (3.0, "a name, a function"),
    "unknown": ("gellu", 'Did you mean "gelu"'),
    "threshold": ("threshold", "threshold"),
}


@pytest.mark.filterwarnings("ignore:divide by zero")  # of the function that is not finite
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_gain_is_refused_with_a_reason(name):
    activation, reason = REFUSED[name]
    with pytest.raises(keras_he.KerasHeError, match=rf"(?s)`activation` must be.*{reason}"):
        keras_he.gain(activation)


def test_a_staircase_has_a_forward_gain_only():
    assert keras_he.gain(np.sign) == pytest.approx(1.0, rel=1e-9)
    with pytest.raises(keras_he.KerasHeError, match='passes no gradient: use mode="fan_in"'):
        keras_he.gain(np.sign, mode="fan_out")


def test_slopes_belong_to_the_leaky_rectifiers():
    assert keras_he.gain("prelu", negative_slope=[0.3, 0.4]) == pytest.approx(math.sqrt(2 / 1.125))
    for activation in ("gelu", "relu", keras.layers.LeakyReLU()):
        with pytest.raises(keras_he.KerasHeError, match="`negative_slope` must be given with"):
            keras_he.gain(activation, negative_slope=0.1)


def test_an_unknown_mode_is_named():
    with pytest.raises(keras_he.KerasHeError, match='Did you mean "fan_in"'):
        keras_he.gain("relu", mode="fanin")


@pytest.mark.parametrize("slope", [0.0, 0.2, 0.25, 1.0, -0.5])
def test_depth_is_safe_for_rectifiers_of_any_slope(slope):
    factors = keras_he.depth_factors("leaky_relu", negative_slope=slope)
    assert factors == pytest.approx((1.0, 1.0), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "signal", "gradient"),
    [("tanh", 0.46, 1.18), ("gelu", 1.14, 1.07), ("softplus", 0.49, 0.32)],
)
def test_depth_factors_of_others(name, signal, gradient):
    assert keras_he.depth_factors(name) == pytest.approx((signal, gradient), abs=0.005)


def test_callables_train_and_clone_inside_attention():
    initializer = keras_he.KaimingNormal(lambda x: x * ops.sigmoid(1.7 * x))
    inputs = keras.Input((3, 8))
    outputs = keras.layers.MultiHeadAttention(2, 4, kernel_initializer=initializer)(inputs, inputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).standard_normal((4, 3, 8)).astype("float32")
    assert np.isfinite(model.fit(x, x, verbose=0).history["loss"]).all()
    copy = keras.models.model_from_json(model.to_json())
    assert copy.count_params() == model.count_params()
