"""Models that are made portable: each initializer becomes the Keras built-in of equal law."""

import json
import math
from typing import NamedTuple

import keras
import numpy as np
import pytest

import keras_he
from keras_he.errors import NotPortable

L = keras.layers
K = keras.initializers
CUT = 0.87962566  # standard deviation of a standard normal law cut at two
LAWS = ("normal", "uniform", "truncated", "orthogonal")


@keras.saving.register_keras_serializable("portable")
class Block(L.Layer):
    """Holds a layer, and hands it the one initializer that it takes."""

    def __init__(self, kernel_initializer="he_relu", **kwargs):
        super().__init__(**kwargs)
        self.kernel_initializer = K.get(kernel_initializer)
        self.dense = L.Dense(24, kernel_initializer=self.kernel_initializer)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {**super().get_config(), "kernel_initializer": K.serialize(self.kernel_initializer)}


@keras.saving.register_keras_serializable("portable")
class Mixer(L.Layer):
    """Holds a kernel under a name that says nothing of its initializer."""

    def __init__(self, kernel_initializer="he_relu", **kwargs):
        super().__init__(**kwargs)
        self.kernel_initializer = K.get(kernel_initializer)

    def build(self, input_shape):
        shape = (input_shape[-1], 24)
        self.mixing = self.add_weight(shape, initializer=self.kernel_initializer, name="mixing")

    def call(self, x):
        return keras.ops.matmul(x, self.mixing)

    def get_config(self):
        return {**super().get_config(), "kernel_initializer": K.serialize(self.kernel_initializer)}


@keras.saving.register_keras_serializable("portable")
class Keeper(L.Layer):
    """Keeps the string that it was given, and writes it into its config."""

    def __init__(self, kernel_initializer="he_relu", **kwargs):
        super().__init__(**kwargs)
        self.text = kernel_initializer
        self.dense = L.Dense(24, kernel_initializer=kernel_initializer)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {**super().get_config(), "kernel_initializer": self.text}


class Pair(NamedTuple):
    """Holds two initializers."""

    first: K.Initializer
    second: K.Initializer


@keras.saving.register_keras_serializable("portable")
class Bank(L.Layer):
    """Holds initializers in collections of every kind."""

    def __init__(self, kernel_initializers, **kwargs):
        super().__init__(**kwargs)
        self.kernel_initializers = [K.get(one) for one in kernel_initializers]
        self.pair = Pair(*self.kernel_initializers)
        self.table = {1: "one", None: {"deep": (0, [K.get("he_relu_truncated")])}}

    def build(self, input_shape):
        shape = (input_shape[-1], 24)
        for number, one in enumerate(self.kernel_initializers):
            self.add_weight(shape, initializer=one, name=f"mixing_{number}")

    def call(self, x):
        return keras.ops.matmul(x, self.weights[0] + self.weights[1])

    def get_config(self):
        held = [K.serialize(one) for one in self.kernel_initializers]
        return {**super().get_config(), "kernel_initializers": held}


@keras.saving.register_keras_serializable("portable")
class Both(L.Layer):
    """Holds a kernel, and hands its initializer on to a layer inside."""

    def __init__(self, name_of_kernel="kernel", **kwargs):
        super().__init__(**kwargs)
        self.kernel_initializer = K.get("he_linear")
        self.name_of_kernel = name_of_kernel
        self.dense = L.Dense(24, kernel_initializer=self.kernel_initializer)

    def build(self, input_shape):
        name, initializer = self.name_of_kernel, self.kernel_initializer
        self.own = self.add_weight((input_shape[-1], 4), initializer=initializer, name=name)
        self.dense.build((None, 4))

    def call(self, x):
        return self.dense(keras.ops.matmul(x, self.own))

    def get_config(self):
        return {**super().get_config(), "kernel_initializer": K.serialize(self.kernel_initializer)}


@keras.saving.register_keras_serializable("portable")
class Factored(L.Dense):
    """Is a dense layer by its class, and has two inside in place of its kernel."""

    def build(self, input_shape):
        self.first = L.Dense(4, kernel_initializer="he_linear", name="first")
        self.first.build(input_shape)
        self.built = True

    def call(self, x):
        return self.first(x)


def sequential(*layers, shape=(96,)):
    return keras.Sequential([keras.Input(shape), *layers])


def attention_model(kernel_initializer, heads=4, key_dim=8):
    inputs = keras.Input((5, 64))
    layer = L.MultiHeadAttention(heads, key_dim, kernel_initializer=kernel_initializer)
    return keras.Model(inputs, layer(inputs, inputs))


def dense(kernel_initializer):
    return sequential(L.Dense(24, kernel_initializer=kernel_initializer))


def number(initializer):
    """Returns the standard deviation of what a built-in draws, or an orthogonal one's gain."""
    if isinstance(initializer, K.RandomUniform):
        assert initializer.minval == -initializer.maxval
        return initializer.maxval / math.sqrt(3)
    if isinstance(initializer, K.TruncatedNormal):
        return initializer.stddev * CUT
    if isinstance(initializer, K.RandomNormal):
        return initializer.stddev
    assert isinstance(initializer, K.Orthogonal)
    return initializer.gain


def serializable(model):
    return json.dumps(model.get_config(), default=str)


# The laws: a ReLU's gain is sqrt(2), and the kernel is 96 × 24.

STD = math.sqrt(2 / 96)
BUILT_INS = {
    "normal": (K.RandomNormal, {"mean": 0.0, "stddev": STD}),
    "uniform": (K.RandomUniform, {"minval": -math.sqrt(3) * STD, "maxval": math.sqrt(3) * STD}),
    "truncated": (K.TruncatedNormal, {"mean": 0.0, "stddev": STD / CUT}),
    # Keras' orthogonal matrix has columns of norm 1: an element's mean square is 1/96.
    "orthogonal": (K.Orthogonal, {"gain": math.sqrt(2)}),
}


def string(law):
    return "he_relu" if law == "normal" else f"he_relu_{law}"


@pytest.mark.parametrize("law", LAWS)
def test_each_law_becomes_the_built_in_with_its_number(law):
    model = dense(string(law))
    keras_he.make_portable(model)
    made = model.layers[0].kernel_initializer
    cls, expected = BUILT_INS[law]
    config = {key: value for key, value in made.get_config().items() if key != "seed"}
    assert type(made) is cls
    assert config == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("law", LAWS)
def test_a_kernel_drawn_anew_has_the_standard_deviation_of_the_old_one(law):
    keras.utils.set_random_seed(0)
    model = sequential(L.Dense(256, kernel_initializer=string(law)), shape=(512,))
    keras_he.make_portable(model)
    again = keras.models.clone_model(model).layers[0].kernel.numpy()
    # 131072 draws: their standard deviation is known to 0.2 %, and 2 % is 10 times that.
    assert np.std(again) == pytest.approx(math.sqrt(2 / 512), rel=0.02)


MODES = {
    "fan_in": math.sqrt(2 / 96),
    "fan_out": math.sqrt(2 / 24),
    "fan_avg": math.sqrt(2 / 60),
}


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_has_its_own_number(mode):
    model = dense(keras_he.KaimingNormal(mode=mode))
    keras_he.make_portable(model)
    assert number(model.layers[0].kernel_initializer) == pytest.approx(MODES[mode], rel=1e-9)


def test_fan_avg_of_a_smooth_activation_weighs_both_conditions():
    # Of tanh under N(0, 1): E[f²] = 0.394294, E[f'²] = 0.464403 (integrated over ±12).
    model = dense("he_tanh_fan_avg")
    keras_he.make_portable(model)
    expected = math.sqrt(2 / (96 * 0.394294 + 24 * 0.464403))
    assert number(model.layers[0].kernel_initializer) == pytest.approx(expected, rel=1e-5)


def test_a_seed_stays_a_seed():
    model = dense(keras_he.KaimingNormal(seed=7))
    keras_he.make_portable(model)
    first, again = (keras.models.clone_model(model).layers[0].kernel.numpy() for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_kernels_of_different_seeds_get_different_seeds():
    kernels = [keras_he.KaimingNormal(seed=seed) for seed in (1, 2)]
    model = sequential(*(L.Dense(96, kernel_initializer=one) for one in kernels))
    keras_he.make_portable(model)
    first, second = (one.kernel.numpy() for one in keras.models.clone_model(model).layers)
    assert not np.array_equal(first, second)


# The layers

IMAGE, SEQUENCE = (8, 8, 6), (5, 16)


def transposed():
    kernel = keras_he.KaimingUniform(geometry="transpose", strides=2)
    return L.Conv2DTranspose(12, 4, strides=2, kernel_initializer=kernel)


# layer, shape of its inputs, and the standard deviations that its kernels ask for, in the order
# of `make_portable`: gain² over the connections into one output unit.
LAYERS = {
    "Dense": (lambda: L.Dense(24, kernel_initializer="he_relu"), SEQUENCE, [2 / 16]),
    "Conv2D": (lambda: L.Conv2D(12, 3, kernel_initializer="he_relu_uniform"), IMAGE, [2 / 54]),
    "Conv2D in groups": (
        lambda: L.Conv2D(12, 3, groups=2, kernel_initializer="he_relu"),
        IMAGE,
        [2 / 27],  # 9 · 6 / 2
    ),
    "DepthwiseConv2D": (
        lambda: L.DepthwiseConv2D(
            3, depth_multiplier=2, depthwise_initializer="he_relu_truncated_depthwise"
        ),
        IMAGE,
        [2 / 9],  # one channel
    ),
    "SeparableConv2D": (
        lambda: L.SeparableConv2D(
            12,
            3,
            depthwise_initializer="he_relu_depthwise",
            pointwise_initializer="he_linear_uniform",
        ),
        IMAGE,
        [2 / 9, 1 / 6],
    ),
    "Conv2DTranspose": (transposed, IMAGE, [2 / 24]),  # 16 · 6 / (2 · 2)
    "LSTM": (
        lambda: L.LSTM(8, kernel_initializer="he_linear", recurrent_initializer="he_relu"),
        SEQUENCE,
        [1 / 16, 2 / 8],
    ),
    "Bidirectional": (
        lambda: L.Bidirectional(L.GRU(8, kernel_initializer="he_linear_truncated")),
        SEQUENCE,
        [1 / 16, 1 / 16],
    ),
    "TimeDistributed": (
        lambda: L.TimeDistributed(L.Dense(24, kernel_initializer="he_relu")),
        SEQUENCE,
        [2 / 16],
    ),
    "EinsumDense": (
        lambda: L.EinsumDense("abc,chd->abhd", (None, 3, 4), kernel_initializer="he_relu"),
        SEQUENCE,
        [2 / 16],
    ),
    "Embedding": (
        lambda: L.Embedding(
            9, 16, embeddings_initializer=keras_he.KaimingNormal(gain=1.0, mode="fan_out")
        ),
        (5,),
        [1 / 16],
    ),
    "nested": (
        lambda: sequential(
            sequential(L.Dense(24, kernel_initializer="he_relu"), shape=SEQUENCE), shape=SEQUENCE
        ),
        SEQUENCE,
        [2 / 16],
    ),
    "a layer in a layer": (Block, SEQUENCE, [2 / 16, 2 / 16]),
    "a kernel of another name": (Mixer, SEQUENCE, [2 / 16]),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_each_kernel_of_a_layer_gets_its_number(kind):
    make, shape, variances = LAYERS[kind]
    model = sequential(make(), shape=shape)
    replaced = keras_he.make_portable(model)
    assert [number(one.after) ** 2 for one in replaced] == pytest.approx(variances, rel=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_of_a_layer_stay_bit_for_bit(kind):
    make, shape, _ = LAYERS[kind]
    model = sequential(make(), shape=shape)
    before = [one.numpy().copy() for one in model.weights]
    keras_he.make_portable(model)
    after = [one.numpy() for one in model.weights]
    assert len(before) > 0
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_config_of_a_layer_does_not_name_keras_he(kind):
    make, shape, _ = LAYERS[kind]
    model = sequential(make(), shape=shape)
    assert "keras_he" in serializable(model)  # what is looked for was there
    keras_he.make_portable(model)
    assert "keras_he" not in serializable(model)


@pytest.mark.parametrize("kind", LAYERS)
def test_no_replacement_counts_fans_itself(kind):
    make, shape, _ = LAYERS[kind]
    replaced = keras_he.make_portable(sequential(make(), shape=shape))
    assert replaced
    assert not any(isinstance(one.after, K.VarianceScaling) for one in replaced)


def test_a_replacement_tells_what_it_took_the_place_of():
    model = sequential(L.Dense(24, kernel_initializer="he_relu", name="head"))
    before = model.layers[0].kernel_initializer
    (one,) = keras_he.make_portable(model)
    assert (one.layer, one.attribute, one.note) == ("head", "kernel_initializer", "")
    assert one.before is before
    assert one.after is model.layers[0].kernel_initializer


@pytest.mark.parametrize("name", ["kernel", "mixing"])
def test_a_layer_with_a_kernel_that_hands_its_initializer_on_gets_the_mean_and_a_note(name):
    shared, inner = keras_he.make_portable(sequential(Both(name)))
    assert number(inner.after) == pytest.approx(1 / 2, rel=1e-7)  # of 4 inputs
    assert number(shared.after) == pytest.approx(math.sqrt(1 / 2 / math.sqrt(96)), rel=1e-7)
    assert "0.102 to 0.5 share it" in shared.note


def test_a_layer_inside_one_of_which_nothing_is_known_gets_its_number():
    replaced = keras_he.make_portable(sequential(Factored(4, kernel_initializer="he_relu")))
    (inner,) = [one for one in replaced if one.layer == "first"]
    assert number(inner.after) == pytest.approx(1 / math.sqrt(96), rel=1e-7)


def test_a_generator_is_left_out_and_told():
    seed = keras.random.SeedGenerator(3)
    (one,) = keras_he.make_portable(dense(keras_he.KaimingUniform(seed=seed)))
    assert one.note == "its generator's seed is left out"


def test_initializers_in_collections_are_replaced():
    model = sequential(Bank(["he_relu", "he_relu_uniform"]))
    replaced = keras_he.make_portable(model)
    layer = model.layers[0]
    assert [one.attribute for one in replaced] == [
        *["kernel_initializers"] * 2,
        *["pair"] * 2,
        "table",
    ]
    assert [number(one.after) for one in replaced] == pytest.approx([STD] * 5, rel=1e-7)
    assert [type(one) for one in layer.kernel_initializers] == [K.RandomNormal, K.RandomUniform]
    assert [type(one) for one in layer.pair] == [K.RandomNormal, K.RandomUniform]
    assert layer.pair.second is layer.pair[1]
    assert layer.table[1] == "one"
    assert isinstance(layer.table[None]["deep"][1][0], K.TruncatedNormal)
    assert "keras_he" not in serializable(model)


def test_collections_of_a_refused_model_are_as_they_were():
    model = sequential(Bank(["he_relu", "he_relu_uniform"]), Keeper("he_relu"))
    held = [*model.layers[0].kernel_initializers]
    with pytest.raises(NotPortable):
        keras_he.make_portable(model)
    after = model.layers[0].kernel_initializers
    assert all(first is second for first, second in zip(held, after, strict=True))


# Attention: one attribute makes the kernels of four layers.


def test_attention_whose_kernels_agree_is_replaced_without_a_note():
    model = attention_model("he_linear", heads=4, key_dim=16)  # 64 in, 64 out
    replaced = keras_he.make_portable(model)
    assert [number(one.after) for one in replaced] == pytest.approx([1 / 8] * 5, rel=1e-9)
    assert {one.note for one in replaced} == {""}


def test_attention_whose_kernels_differ_gets_their_mean_and_says_so():
    model = attention_model("he_linear")  # three of 64 inputs, one of 4 · 8
    shared, *single = keras_he.make_portable(model)
    expected = [1 / 8, 1 / 8, 1 / 8, 1 / math.sqrt(32)]
    assert [number(one.after) for one in single] == pytest.approx(expected, rel=1e-9)
    assert number(shared.after) == pytest.approx(math.prod(expected) ** (1 / 4), rel=1e-9)
    assert "0.125 to 0.177" in shared.note
    assert "geometric mean" in shared.note


def test_attention_whose_orthogonal_kernels_want_different_gains_says_so():
    # Every standard deviation is 1/8, but Keras sees query as 256 × 16 and the last as 64 × 64.
    model = attention_model("he_linear_orthogonal", heads=4, key_dim=16)
    shared, *single = keras_he.make_portable(model)
    expected = [16 / 8, 16 / 8, 16 / 8, 8 / 8]
    assert [number(one.after) for one in single] == pytest.approx(expected, rel=1e-9)
    assert number(shared.after) == pytest.approx(8 ** (1 / 4), rel=1e-9)
    assert "gain 1 to 2" in shared.note


@pytest.mark.parametrize("kernel_initializer", ["glorot_uniform", "he_relu_uniform"])
@pytest.mark.parametrize("kind", ["MultiHeadAttention", "GroupQueryAttention"])
def test_an_attention_that_was_measured_gets_the_mean_of_its_kernels_and_says_so(
    kind, kernel_initializer
):
    inputs = keras.Input((5, 64))
    heads = (4, 8) if kind == "MultiHeadAttention" else (8, 4, 2)
    layer = getattr(L, kind)(*heads, kernel_initializer=kernel_initializer)
    model = keras.Model(inputs, layer(inputs, inputs))
    keras_he.initialize(model, seed=1)
    kernels = [np.std(one.numpy()) for one in model.weights if one.name == "kernel"]
    replaced = keras_he.make_portable(model)
    (shared,) = [one for one in replaced if "kernels of standard deviation" in one.note]
    assert shared.layer == layer.name
    written = layer.get_config()["kernel_initializer"]
    assert (written["class_name"], written["config"]["stddev"]) == (
        "RandomNormal",
        number(shared.after),
    )
    # The smallest kernel has 1024 draws: their standard deviation is known to 2.2 %; 5 times that.
    assert number(shared.after) == pytest.approx(math.prod(kernels) ** (1 / len(kernels)), rel=0.11)
    assert max(kernels) > 1.3 * min(kernels)


def test_config_of_an_attention_does_not_name_keras_he():
    model = attention_model("he_relu_uniform")
    keras_he.make_portable(model)
    assert "keras_he" not in serializable(model)


def test_orthogonal_gates_are_told_to_become_one_matrix():
    model = sequential(L.LSTM(8, recurrent_initializer="he_linear_orthogonal"), shape=SEQUENCE)
    (one,) = keras_he.make_portable(model)
    assert "one orthogonal matrix for the whole kernel" in one.note
    assert one.after.gain == pytest.approx(math.sqrt(32 / 8), rel=1e-9)  # 8 × 32, fan-in 8


def test_an_orthogonal_matrix_needs_no_note():
    (one,) = keras_he.make_portable(dense("he_linear_orthogonal"))
    assert one.note == ""


# Whole models


def initialized():
    layers = [
        L.Conv2D(12, 3, activation="gelu"),
        L.DepthwiseConv2D(3, activation="relu"),
        L.Flatten(),
        L.Dense(24, activation="tanh"),
        L.Dense(4),
    ]
    model = sequential(*layers, shape=IMAGE)
    keras_he.initialize(model, seed=1)
    return model


def test_an_initialized_model_keeps_its_outputs():
    model = initialized()
    x = np.cos(np.arange(2 * math.prod(IMAGE), dtype="float32")).reshape(2, *IMAGE)
    before = keras.ops.convert_to_numpy(model(x))
    keras_he.make_portable(model)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(x)), before)


def test_an_initialized_model_has_every_kernel_replaced():
    replaced = keras_he.make_portable(initialized())
    assert [one.attribute for one in replaced] == [
        "kernel_initializer",
        "depthwise_initializer",
        "kernel_initializer",
        "kernel_initializer",
    ]


def test_an_initialized_model_drawn_anew_has_the_scale_of_its_kernels():
    model = initialized()
    reported = [np.std(one.numpy()) for one in model.weights if len(one.shape) > 1]
    keras_he.make_portable(model)
    numbers = [
        number(getattr(layer, "kernel_initializer", None) or layer.depthwise_initializer)
        for layer in model.layers
        if layer.weights
    ]
    # The smallest kernel has 96 draws: their standard deviation is known to 7 %; 5 times that.
    assert numbers == pytest.approx(reported, rel=0.36)


def test_an_initialized_model_does_not_name_keras_he():
    model = initialized()
    keras_he.make_portable(model)
    assert "keras_he" not in serializable(model)


def test_a_layer_that_is_used_twice_is_replaced_once():
    inputs, layer = keras.Input((24,)), L.Dense(24, kernel_initializer="he_relu")
    assert len(keras_he.make_portable(keras.Model(inputs, layer(layer(inputs))))) == 1


def test_a_second_call_finds_nothing_more():
    model = dense("he_relu")
    keras_he.make_portable(model)
    assert keras_he.make_portable(model) == ()


def test_a_model_without_our_initializers_gives_nothing():
    model = sequential(L.Dense(24), L.Dense(3, kernel_initializer="orthogonal"))
    before = serializable(model)
    assert keras_he.make_portable(model) == ()
    assert serializable(model) == before


def test_an_initializer_that_made_nothing_is_told():
    layer = L.Dense(24, use_bias=False, bias_initializer="he_relu")
    (one,) = keras_he.make_portable(sequential(layer))
    assert isinstance(one.after, K.Zeros)
    assert one.note == "it made no variable"


# What is refused


def kept():
    """Returns a model with a layer whose config keeps a string, behind one that can be mended."""
    return sequential(L.Dense(96, kernel_initializer="he_relu"), Keeper("he_relu"))


def test_a_layer_that_keeps_a_string_is_refused():
    with pytest.raises(NotPortable, match=r"must not name keras_he\. It has he_relu"):
        keras_he.make_portable(kept())


def test_a_refused_model_is_as_it_was():
    model = kept()
    config, weights = serializable(model), [one.numpy().copy() for one in model.weights]
    before = model.layers[0].kernel_initializer, model.layers[1].dense.kernel_initializer
    with pytest.raises(NotPortable):
        keras_he.make_portable(model)
    after = model.layers[0].kernel_initializer, model.layers[1].dense.kernel_initializer
    assert all(first is second for first, second in zip(before, after, strict=True))
    assert serializable(model) == config
    for first, second in zip(weights, model.weights, strict=True):
        np.testing.assert_array_equal(first, second.numpy())


def test_a_refusal_is_an_error_of_keras_he_and_of_values():
    assert issubclass(NotPortable, keras_he.KerasHeError)
    assert issubclass(NotPortable, ValueError)


@pytest.mark.parametrize("name", ["he_relu", "keras_he_head", "keras_he"])
def test_a_layer_may_be_called_as_we_are(name):
    assert keras_he.make_portable(sequential(L.Dense(24, name=name))) == ()
    inputs = keras.Input((8,))
    x = L.Dense(8, name=name)(inputs)  # its name stands where other layers say what they take
    model = keras.Model(inputs, L.Dense(2)(L.Activation("relu")(x)))
    assert keras_he.make_portable(model) == ()


def test_a_layer_that_is_not_built_is_refused():
    model = keras.Sequential([L.Dense(24, kernel_initializer="he_relu", name="head")])
    with pytest.raises(NotPortable, match=r"`head` must be built.*Call it once, or give"):
        keras_he.make_portable(model)
    assert isinstance(model.layers[0].kernel_initializer, keras_he.KaimingNormal)


def test_what_is_no_model_is_refused():
    with pytest.raises(keras_he.KerasHeError, match="`model` must be a Keras model"):
        keras_he.make_portable("model.keras")
