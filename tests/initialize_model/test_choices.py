"""Kernels that are constant by their author's choice: `initialize` leaves them and goes on."""

import keras
import numpy as np
import pytest
from architectures import numbers
from keras import layers

import keras_he


def centre_tap(shape, dtype=None):
    """Returns a convolution that changes nothing, as Zagoruyko and Komodakis write it."""
    kernel = np.zeros(shape, "float32")
    kernel[shape[0] // 2, shape[1] // 2] = np.eye(*shape[2:])
    return kernel


def bilinear(shape, dtype=None):
    """Returns the taps of bilinear upsampling, one filter for each channel."""
    taps = np.array([0.25, 0.75, 0.75, 0.25], "float32")
    kernel = np.zeros(shape, "float32")
    for channel in range(shape[2]):
        kernel[:, :, channel, channel] = np.outer(taps, taps)
    return kernel


class Half(keras.initializers.Initializer):
    """An initializer of one's own."""

    def __call__(self, shape, dtype=None, **kwargs):
        return keras.ops.full(shape, 0.5, dtype=dtype)


TABLE = np.random.default_rng(5).standard_normal((16, 16)).astype("float32")
CHOICES = {
    "zeros": (lambda c: layers.Dense(16, kernel_initializer="zeros", name="kept")(c), "all zeros"),
    "ones": (lambda c: layers.Dense(16, kernel_initializer="ones", name="kept")(c), "all 1"),
    "identity": (
        lambda c: layers.Dense(16, kernel_initializer="identity", name="kept")(c),
        "an identity",
    ),
    "constant": (
        lambda c: layers.Dense(
            16, kernel_initializer=keras.initializers.Constant(0.01), name="kept"
        )(c),
        "all 0.01",
    ),
    "table": (
        lambda c: layers.Dense(
            16, kernel_initializer=keras.initializers.Constant(TABLE), name="kept"
        )(c),
        "constants",
    ),
    "own": (lambda c: layers.Dense(16, kernel_initializer=Half(), name="kept")(c), "all 0.5"),
    "function": (
        lambda c: layers.Flatten()(
            layers.Conv2D(4, 3, padding="same", kernel_initializer=centre_tap, name="kept")(
                layers.Reshape((2, 2, 4))(c)
            )
        ),
        "constants",
    ),
    "upsampling": (
        lambda c: layers.Flatten()(
            layers.Conv2DTranspose(4, 4, strides=2, kernel_initializer=bilinear, name="kept")(
                layers.Reshape((2, 2, 4))(c)
            )
        ),
        "constants",
    ),
    "einsum": (
        lambda c: layers.EinsumDense("ab,bc->ac", 16, kernel_initializer="zeros", name="kept")(c),
        "all zeros",
    ),
    "mixed precision": (
        lambda c: layers.Dense(16, kernel_initializer="zeros", dtype="mixed_bfloat16", name="kept")(
            c
        ),
        "all zeros",
    ),
}


def beside(branch):
    """Returns a model with a branch beside others, before a last kernel."""
    inputs = keras.Input((16,))
    x = layers.Dense(16, "relu", name="first")(inputs)
    joined = layers.Concatenate()([branch(x), layers.Dense(16, name="other")(x)])
    return keras.Model(inputs, layers.Dense(3, name="last")(joined))


def row_of(report, path):
    return next(row for row in report.rows if row.path == path)


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_left_told_and_accepted(name):
    keras.utils.set_random_seed(3)
    branch, words = CHOICES[name]
    model = beside(branch)
    before = numbers(model)[2]
    report = keras_he.initialize(model, seed=1)
    row = row_of(report, "kept/kernel")
    assert row.left.kind == "by-design"
    assert row.left.startswith(f"kept: {words}, by its initializer ")
    np.testing.assert_array_equal(numbers(model)[2], before)
    assert "3 of 4 kernels initialized, 1 kept by design (" in str(report)
    assert {row.rule for row in report.kernels if not row.left} == {"measured"}
    report.check()


def normal_of_seed(shape, dtype=None):
    return keras.random.normal(shape, seed=3)


NO_CHOICES = {
    "zeros that were written": ("glorot_uniform", np.zeros((16, 16))),
    "ones that were written": ("he_normal", np.ones((16, 16))),
    "one value that was written over zeros": ("zeros", np.full((16, 16), 0.1)),
    "trained from zeros": ("zeros", np.random.default_rng(1).standard_normal((16, 16))),
    "small": (keras.initializers.RandomNormal(stddev=1e-3, seed=1), None),
    "one integer seed": (keras.initializers.HeNormal(seed=1), None),
    "a function with a seed": (normal_of_seed, None),
    "orthogonal": ("orthogonal", None),
    "identity that was written": ("glorot_uniform", np.eye(16)),
}


@pytest.mark.parametrize("name", NO_CHOICES)
def test_what_its_initializer_does_not_make_is_no_choice(name):
    keras.utils.set_random_seed(3)
    initializer, values = NO_CHOICES[name]
    model = beside(layers.Dense(16, kernel_initializer=initializer, name="kept"))
    if values is not None:
        model.get_layer("kept").kernel.assign(values)
    report = keras_he.initialize(model, seed=1)
    assert row_of(report, "kept/kernel").rule == "measured"
    assert "kept by design" not in str(report)


def zero_branch():
    return beside(layers.Dense(16, kernel_initializer="zeros", name="kept"))


@pytest.mark.parametrize(
    "asked",
    [{"constants": "set"}, {"only": "kept/kernel"}, {"only": ["first*", "kept/kernel"]}],
    ids=["set", "own path", "own path among others"],
)
def test_a_kernel_is_set_where_the_call_asks_for_it(asked):
    report = keras_he.initialize(zero_branch(), seed=1, **asked)
    assert row_of(report, "kept/kernel").rule == "measured"


@pytest.mark.parametrize(
    "only",
    ["kept", "*", ["*kernel"], lambda path: True],
    ids=["layer", "all", "pattern", "function"],
)
def test_a_pattern_or_a_layer_is_no_wish_for_one_kernel(only):
    row = row_of(keras_he.initialize(zero_branch(), seed=1, only=only), "kept/kernel")
    assert row.left.kind == "by-design"


def test_an_unknown_wish_is_named():
    with pytest.raises(keras_he.KerasHeError, match="Did you mean"):
        keras_he.initialize(zero_branch(), constants="kept")


class Own(layers.Layer):
    """Keeps no initializer."""

    def __init__(self, initializer, **kwargs):
        super().__init__(**kwargs)
        self.made_by = initializer

    def build(self, shape):
        self.taps = self.add_weight(
            shape=(shape[-1], 16), initializer=self.made_by, name="taps", trainable=True
        )

    def call(self, x):
        return x @ self.taps


keras_he.register_kernels(Own, lambda layer: {"taps": {}})


@pytest.mark.parametrize(
    ("initializer", "left"),
    [("zeros", "by-design"), ("identity", "by-design"), ("ones", ""), ("he_normal", "")],
)
def test_an_own_layer_without_an_initializer_is_known_by_its_values(initializer, left):
    report = keras_he.initialize(beside(Own(initializer, name="kept")), seed=1)
    assert row_of(report, "kept/taps").left.kind == left
    report.check()


def transformer_block():
    """Returns a diffusion transformer's block: all of its modulation starts at zero."""
    inputs, condition = keras.Input((8, 16)), keras.Input((16,))
    made = layers.Dense(48, kernel_initializer="zeros", name="modulation")(
        keras.ops.silu(condition)
    )
    made = layers.Reshape((1, 48))(made)
    shift, scale, gate = made[:, :, :16], made[:, :, 16:32], made[:, :, 32:]
    y = layers.LayerNormalization()(inputs) * (1 + scale) + shift
    x = inputs + gate * layers.MultiHeadAttention(2, 8, name="mha")(y, y)
    last = layers.Dense(4, kernel_initializer="zeros", name="last")(layers.LayerNormalization()(x))
    return keras.Model([inputs, condition], last)


def test_the_pass_goes_on_beside_a_modulation_of_zeros():
    report = keras_he.initialize(transformer_block(), seed=1)
    assert [row.path for row in report.kernels if row.left] == ["modulation/kernel", "last/kernel"]
    measured = [row for row in report.kernels if not row.left]
    assert len(measured) == 4  # query, key, value, output
    assert all(row.moment == pytest.approx(1.0, rel=0.02) for row in measured)
    report.check()


def zero(cls, *arguments, **options):
    return cls(*arguments, kernel_initializer="zeros", name="zero", **options)


SILENT = {
    "dense": lambda x: zero(layers.Dense, 16, activation="relu")(x),
    "normalised": lambda x: layers.LayerNormalization()(zero(layers.Dense, 16)(x)),
    "attention": lambda x: zero(layers.MultiHeadAttention, 2, 8)(x, x),
    "steps": lambda x: layers.TimeDistributed(zero(layers.Dense, 16))(x),
    "states": lambda x: layers.Bidirectional(
        zero(layers.GRU, 8, return_sequences=True, use_bias=False)
    )(x),
    "separable": lambda x: layers.SeparableConv1D(
        16, 3, padding="same", depthwise_initializer="zeros", name="zero"
    )(x),
}


@pytest.mark.parametrize("name", SILENT)
def test_what_gets_only_zeros_by_choice_is_told_and_accepted(name):
    inputs = keras.Input((4, 16))
    x = SILENT[name](layers.Dense(16, "relu", name="first")(inputs))
    x = layers.Dense(8, "relu", name="dead")(x)
    model = keras.Model(inputs, [x, layers.Dense(2, name="beside")(inputs)])
    assert keras_he.audit(model).findings == ()
    report = keras_he.initialize(model, seed=1)
    dead = row_of(report, "dead/kernel")
    assert dead.rule == "analytic"
    assert row_of(report, "beside/kernel").rule == "measured"
    told = [note for note in report.warnings if "dead/kernel" in note]
    assert [note.kind for note in told] == ["by-design"]
    assert not [note for note in report.warnings if note.kind in ("zeros", "dead-input")]
    report.check()


def test_zeros_without_a_reason_are_told_at_the_top_and_refused_by_check():
    inputs = keras.Input((8, 1))
    x = layers.LayerNormalization(name="one_channel")(inputs)
    x = layers.Dense(4, "relu", name="dead")(x)
    beside = layers.Dense(2, name="beside")(layers.Flatten()(inputs))
    model = keras.Model(inputs, [x, beside])
    report = keras_he.initialize(model, seed=1)
    (note,) = (note for note in report.warnings if note.kind == "zeros")
    assert "`one_channel` returns zeros only" in note
    above = str(report).partition("\nkernel ")[0]
    assert "! zeros: `one_channel`" in above
    assert row_of(report, "beside/kernel").rule == "measured"
    with pytest.raises(keras_he.KerasHeError, match="`one_channel` returns zeros only"):
        report.check()


class Positions(layers.Layer):
    """Returns two outputs, the second of which is zeros, as a block without position bias does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(16)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x) * 2.0, keras.ops.zeros_like(x)


def test_one_output_of_zeros_among_others_is_nothing_to_tell():
    inputs = keras.Input((16,))
    x, _ = Positions(name="two")(inputs)
    report = keras_he.initialize(keras.Model(inputs, layers.Dense(3)(x)), seed=1)
    assert not [note for note in report.warnings if note.kind == "zeros"]
    assert {row.rule for row in report.kernels} == {"measured"}


def test_a_generator_of_seeds_is_not_moved_on():
    generator = keras.random.SeedGenerator(5)
    made = keras.initializers.RandomNormal(stddev=0.0, seed=generator)
    model = beside(layers.Dense(16, kernel_initializer=made, name="kept"))
    before = keras.ops.convert_to_numpy(generator.state.value)
    report = keras_he.initialize(model, seed=1)
    assert row_of(report, "kept/kernel").left.kind == "by-design"
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(generator.state.value), before)
