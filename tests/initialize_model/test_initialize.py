"""Whole models: every kernel is set, and the signal of the model keeps its size."""

import math
import random

import architectures
import keras
import numpy as np
import pytest
import signals
from architectures import batch_for, numbers
from keras import layers

import keras_he
from keras_he.layers import rules
from keras_he.layers.walk import layer_kernels


@pytest.mark.quick(4)
def test_every_kernel_of_small_networks_is_set_or_named(small):
    report = keras_he.initialize(small, batch_for(small), seed=1)
    # A shared layer stands under several names there, and once in the report.
    kernels = {id(kernel.variable) for kernel in layer_kernels(small).values()}
    assert len(report.kernels) == len(kernels) > 0
    for row in report.kernels:
        assert row.left == "a lookup table" or (row.gain > 0 and row.std > 0)
    shared = any(len(row.moments) > 1 for row in report.kernels)  # one kernel, ten inputs
    report.check(spread=0.7 if shared else math.log10(1.5))


@pytest.fixture(params=list(architectures.SMALL))
def small(request):
    keras.utils.set_random_seed(0)
    return architectures.SMALL[request.param]()


@pytest.mark.quick(4)
def test_second_moments_hold_in_small_networks(small):
    batch = batch_for(small)
    report = keras_he.initialize(small, batch, seed=1)
    shared = any(len(row.moments) > 1 for row in report.kernels)
    assert signals.factor(signals.moments_aside_from_merges(small, report, batch)) < (
        5 if shared else 1.5
    )
    fresh = batch_for(small, seed=1)
    assert signals.factor(signals.moments_aside_from_merges(small, report, fresh)) < 2.5
    inference = signals.moments_aside_from_merges(small, report, batch, training=False)
    assert signals.factor(inference) < 10


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", architectures.APPLICATIONS)
def test_networks_of_keras_applications_keep_their_signal(name):
    if keras.backend.backend() == "jax" and name not in ("MobileNetV2", "ResNet50V2"):
        pytest.skip("JAX compiles every operation of every shape; these two have what differs")
    if keras.backend.backend() == "torch" and name == "NASNetMobile":
        pytest.skip("Keras has no NASNetMobile on PyTorch")
    keras.utils.set_random_seed(0)
    model = architectures.application(name)
    batch, fresh = batch_for(model, 16), batch_for(model, 16, seed=1)
    report = keras_he.initialize(model, batch, seed=1)
    report.check()
    assert all(row.rule == "measured" for row in report.kernels)
    random = 1.5 if report.random_layers else 1.0  # other masks fall there
    seen = signals.moments_aside_from_merges(model, report, batch)
    assert signals.factor(seen) < 1.5 * random
    assert signals.factor(signals.moments_aside_from_merges(model, report, fresh)) < 2.5 * random
    inference = signals.moments_aside_from_merges(model, report, batch, training=False)
    assert signals.factor(inference) < 10


def test_keras_default_does_not_keep_the_signal():
    # The same measurement, on the same network, sees what `initialize` mends.
    keras.utils.set_random_seed(0)
    model = architectures.separable_blocks()
    assert (
        signals.factor(one[0] for one in signals.second_moments(model, batch_for(model)).values())
        > 1e6
    )


CHAINS = {
    "relu": ("relu", 2.5),
    "leaky_relu": ("leaky_relu", 2.5),
    "prelu": (lambda: layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25)), 2.5),
    "prelu per channel": (architectures.prelu(), 2.5),
    "elu": ("elu", 2.5),
    "selu": ("selu", 2.5),
    "tanh": ("tanh", 2.5),
    # An error of the second moment grows 1.14 and 1.17 times per layer, 7e5 and 8e6 times in a
    # hundred: no choice of kernels holds another batch. The report says so.
    "gelu": ("gelu", math.inf),
    "silu": ("silu", math.inf),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", CHAINS)
def test_a_hundred_dense_layers_keep_their_signal(name):
    keras.utils.set_random_seed(0)
    activation, fresh_factor = CHAINS[name]
    model = architectures.dense_chain(activation)
    batch = batch_for(model)
    report = keras_he.initialize(model, batch, seed=1)
    seen = signals.second_moments(model, batch)
    assert signals.factor(one[0] for one in seen.values()) < 1.5
    fresh = signals.second_moments(model, batch_for(model, 16, seed=1))
    assert signals.factor(one[0] for one in fresh.values()) <= fresh_factor
    kinds = {note.kind for note in report.warnings}
    assert bool(kinds & {"depth", "growing-trunk"}) == (fresh_factor == math.inf)


DEEP = {
    "depthwise-separable": architectures.separable_blocks,
    "depthwise and pointwise": lambda: architectures.separable_blocks(parts=True),
    "convolutions": architectures.conv_prelu,
    "decoder": architectures.decoder,
    "pre-norm": architectures.transformer,
    "post-norm": lambda: architectures.transformer(norm="post"),
    "grouped queries": lambda: architectures.transformer(attention=layers.GroupQueryAttention),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", DEEP)
def test_deep_networks_keep_their_signal(name):
    keras.utils.set_random_seed(0)
    model = DEEP[name]()
    batch = batch_for(model)
    report = keras_he.initialize(model, batch, seed=1)
    assert signals.factor(signals.moments_aside_from_merges(model, report, batch)) < 1.5
    fresh = batch_for(model, 16, seed=1)
    assert signals.factor(signals.moments_aside_from_merges(model, report, fresh)) < 2.5


@pytest.mark.parametrize("law", ["normal", "uniform", "truncated_normal", "orthogonal"])
def test_every_law_keeps_the_signal(law):
    model = architectures.unet()
    batch = batch_for(model)
    report = keras_he.initialize(model, batch, law=law, seed=1)
    assert report.forward_spread < 0.02
    assert signals.factor(signals.moments_aside_from_merges(model, report, batch)) < 1.5


def test_a_trunk_of_a_hundred_blocks_keeps_its_second_moment():
    model = architectures.residual_blocks(100, width=16)
    batch = batch_for(model, 8)
    report = keras_he.initialize(model, batch, seed=1)
    trunk = [layer.output for layer in model.layers if isinstance(layer, layers.Add)]
    seen = keras.Model(model.input, trunk)(batch, training=True)
    sizes = [np.mean(np.square(keras.ops.convert_to_numpy(one))) for one in seen]
    assert signals.factor(sizes) < 4
    assert sorted({round(row.target, 4) for row in report.kernels}) == [0.01, 1.0]


def test_without_residual_scaling_every_target_is_one():
    model = architectures.residual_blocks(5)
    report = keras_he.initialize(model, batch_for(model, 8), seed=1, residual=None)
    assert {row.target for row in report.kernels} == {1.0}
    assert signals.factor(row.moments[0] for row in report.kernels) < 1.05


def test_the_branch_is_scaled_and_not_the_projection():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for block in range(2):
        branch = layers.Conv2D(8, 3, padding="same", name=f"a{block}")(layers.ReLU()(x))
        branch = layers.Conv2D(8, 3, padding="same", name=f"b{block}")(layers.ReLU()(branch))
        x = layers.Add()([branch, x])
    shortcut = layers.Conv2D(16, 1, strides=2, name="projection")(x)
    branch = layers.Conv2D(16, 3, strides=2, padding="same", name="c")(layers.ReLU()(x))
    branch = layers.Conv2D(16, 3, padding="same", name="d")(layers.ReLU()(branch))
    model = keras.Model(inputs, layers.Add()([shortcut, branch]))
    report = keras_he.initialize(model, batch_for(model, 8), seed=1)
    targets = {row.path: row.target for row in report.kernels}
    # Two sums on the first stretch; the projection begins another, with one sum.
    assert {path for path, target in targets.items() if target == pytest.approx(0.5)} == {
        "b0/kernel",
        "b1/kernel",
    }
    assert all(target in (1.0, pytest.approx(0.5)) for target in targets.values())


def test_a_branch_that_ends_in_a_normalisation_is_left():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    for _ in range(3):
        x = layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))])
    report = keras_he.initialize(keras.Model(inputs, x), seed=1)
    assert {row.target for row in report.kernels} == {1.0}


def test_plus_in_a_functional_model_is_a_sum_like_any_other():
    inputs = keras.Input((16,))
    x = layers.Dense(16)(inputs)
    for _ in range(4):
        x = x + layers.Dense(16)(layers.ReLU()(x))
    report = keras_he.initialize(keras.Model(inputs, x), seed=1)
    assert [row.target for row in report.kernels] == [1.0, *[pytest.approx(0.25)] * 4]


def test_a_plain_sum_inside_a_layer_is_scaled_as_one_of_add():
    reports = []
    for plain_sum in (True, False):
        model = architectures.subclassed(plain_sum=plain_sum)
        reports.append(keras_he.initialize(model, batch_for(model), seed=1))
    plain, added = ([row.target for row in report.kernels] for report in reports)
    assert plain == added
    assert min(plain) < 1.0


def test_other_merges_are_told():
    inputs = keras.Input((8,))
    halves = [layers.Dense(8)(inputs), layers.Dense(8)(inputs)]
    model = keras.Model(inputs, layers.Average()(halves))
    report = keras_he.initialize(model, seed=1)
    assert "merges whose branches are not scaled: 1 Average" in report.warnings


def test_a_trunk_that_no_kernel_can_hold_is_told():
    inputs = keras.Input((64,))
    x = layers.Dense(64)(inputs)
    for _ in range(10):
        inner = layers.Add()([x, layers.Dense(64)(layers.ReLU()(x))])
        x = layers.Add()([x, inner])  # twice the trunk, whatever the kernel
    report = keras_he.initialize(keras.Model(inputs, x), seed=1)
    assert "growing-trunk" in {note.kind for note in report.warnings}
    with pytest.raises(keras_he.KerasHeError, match="the residual trunk of"):
        report.check()


def test_branches_that_end_in_an_activation_keep_the_trunk():
    inputs = keras.Input((64,))
    x = layers.Dense(64)(inputs)
    sums = []
    for _ in range(100):
        x = layers.Add()([x, layers.Dense(64, "relu")(layers.Dense(64, "relu")(x))])
        sums.append(x)
    model = keras.Model(inputs, x)
    batch = batch_for(model)
    keras_he.initialize(model, batch, seed=1).check()
    seen = keras.Model(inputs, sums)(batch)
    moments = [np.mean(np.square(keras.ops.convert_to_numpy(one))) for one in seen]
    assert signals.factor(moments) < 4


def test_a_gate_is_measured_in_front_of_its_sigmoid():
    inputs = keras.Input((32,))
    gate = layers.Dense(32, activation="sigmoid", name="gate")(inputs)
    x = layers.Multiply()([layers.Dense(32, name="value")(inputs), gate])
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    report = keras_he.initialize(model, seed=1)
    assert all(row.moments[0] == pytest.approx(1.0, rel=0.011) for row in report.kernels)


def test_biases_and_normalisations_are_made_again_by_their_own_initializers():
    inputs = keras.Input((6, 8))
    x = layers.LSTM(4, return_sequences=True, name="lstm")(inputs)
    x = layers.Dense(8, bias_initializer=keras.initializers.Constant(0.5), name="dense")(x)
    x = layers.LayerNormalization(gamma_initializer="zeros", name="norm")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, 7.0))
    report = keras_he.initialize(model, seed=1)
    bias = keras.ops.convert_to_numpy(model.get_layer("lstm").cell.bias)
    assert bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    assert set(keras.ops.convert_to_numpy(model.get_layer("dense").bias)) == {np.float32(0.5)}
    assert set(keras.ops.convert_to_numpy(model.get_layer("norm").gamma)) == {np.float32(0.0)}
    text = str(report)
    for path in ("lstm/bias 0 to 1", "dense/bias 0.5 to 0.5", "norm/gamma 0 to 0"):
        assert path in text
    # Behind a zero gamma nothing arrives, and nothing can be measured.
    assert "dead input: head/kernel receives only zeros" in report.warnings
    with pytest.raises(keras_he.KerasHeError, match="dead input: head/kernel"):
        report.check()


def test_pre_activations_are_measured_without_their_bias():
    model = keras.Sequential(
        [keras.Input((32,)), layers.Dense(32, bias_initializer=keras.initializers.Constant(3.0))]
    )
    report = keras_he.initialize(model, seed=1)
    assert report.kernels[0].moments[0] == pytest.approx(1.0, rel=0.011)


@pytest.mark.parametrize("statistics", ["batch", "initial"])
def test_moving_statistics_are_the_batchs_or_keras_own(statistics):
    model = keras.Sequential(
        [keras.Input((16,)), layers.Dense(8), layers.BatchNormalization(momentum=0.9)]
    )
    batch = batch_for(model, 64)
    keras_he.initialize(model, batch, seed=1, statistics=statistics)
    before = keras.ops.convert_to_numpy(model.layers[0](batch))
    norm = model.layers[1]
    mean, variance = np.zeros(8), np.ones(8)
    if statistics == "batch":
        mean, variance = before.mean(axis=0), before.var(axis=0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(norm.moving_mean), mean, atol=1e-5)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(norm.moving_variance), variance, rtol=1e-4
    )


def test_inference_sees_what_training_sees_behind_random_layers():
    inputs = x = keras.Input((64,))
    for _ in range(10):
        x = layers.BatchNormalization()(layers.Dense(64)(layers.Dropout(0.5)(x)))
        x = layers.ReLU()(x)
    model = keras.Model(inputs, layers.Dense(4)(x))
    batch = batch_for(model, 64)
    report = keras_he.initialize(model, batch, seed=1)
    assert len(report.random_layers) == 10
    inference = signals.second_moments(model, batch, training=False).values()
    assert signals.factor([one[0] for one in inference][1:]) < 3


def test_a_normalisation_that_is_called_in_inference_mode_keeps_its_own_statistics():
    class Fixed(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.norm = layers.Dense(16), layers.BatchNormalization()
            self.second = layers.Dense(4)

        def call(self, x, training=None):
            return self.second(self.norm(self.first(x), training=False))

    model = Fixed()
    batch = np.random.default_rng(1).normal(size=(32, 8)).astype("float32")
    report = keras_he.initialize(model, batch, seed=1)
    assert report.forward_spread < 0.02
    assert set(keras.ops.convert_to_numpy(model.norm.moving_variance)) == {np.float32(1.0)}


def test_steps_of_zeros_do_not_decide_for_the_others():
    steps = np.random.default_rng(1).normal(size=(32, 8, 8)).astype("float32")
    steps[:, :2] = 0.0
    model = keras.Sequential(
        [
            keras.Input((8, 8)),
            layers.TimeDistributed(layers.Dense(16, "relu")),
            layers.TimeDistributed(layers.Dense(16)),
        ]
    )
    report = keras_he.initialize(model, steps, seed=1)
    report.check()
    assert [row.rule for row in report.kernels] == ["measured", "measured"]


def test_frozen_integer_quantized_and_lora_variables_are_left():
    inputs = keras.Input((8,))
    x = layers.Dense(8, name="frozen")(inputs)
    x = layers.Dense(8, name="lora")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.PReLU(alpha_initializer=keras.initializers.Constant(0.1), name="prelu")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    model.get_layer("frozen").trainable = False
    model.get_layer("norm").trainable = False
    model.get_layer("lora").enable_lora(2)
    before = {one.path: np.array(keras.ops.convert_to_numpy(one)) for one in model.variables}
    report = keras_he.initialize(model, seed=1)
    changed = {
        one.path
        for one in model.variables
        if not np.array_equal(before[one.path], keras.ops.convert_to_numpy(one))
    }
    assert changed == {"head/kernel"}
    left = {row.path: row.left for row in report.rows if row.left}
    assert left["frozen/kernel"] == left["norm/moving_mean"] == left["norm/gamma"] == "frozen"
    assert left["lora/kernel"] == "LoRA is enabled"
    assert left["prelu/alpha"] == "a slope of PReLU"
    assert left["drop/seed_generator_state"] == "holds integers"
    with pytest.raises(keras_he.KerasHeError, match="frozen/kernel was not set: frozen"):
        report.check()
    report.check(skipped=True)


def test_quantized_layers_are_left():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="q"), layers.Dense(2)])
    model.get_layer("q").quantize("int8")
    before = numbers(model)
    report = keras_he.initialize(model, seed=1)
    assert report.rows[0].left.startswith(("holds integers", "quantized"))
    np.testing.assert_array_equal(before[0], numbers(model)[0])


def test_a_layer_without_a_rule_is_named_with_its_reason():
    class Scale(layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

        def call(self, x):
            return x * self.factor

    model = keras.Sequential([keras.Input((8,)), layers.Dense(8), Scale(), layers.Dense(2)])
    report = keras_he.initialize(model, seed=1)
    (row,) = [row for row in report.rows if row.role == "other"]
    assert "register_kernels(Scale" in row.left
    report.check()


def test_a_matrix_without_a_rule_is_missed():
    class Mixed(layers.Layer):
        def build(self, shape):
            self.mixing = self.add_weight(shape=(shape[-1], 4), name="mixing")

        def call(self, x):
            return keras.ops.matmul(x, self.mixing)

    model = keras.Sequential([keras.Input((8,)), Mixed(), layers.Dense(2)])
    report = keras_he.initialize(model, seed=1)
    assert "1 of 2 kernels initialized" in str(report)
    with pytest.raises(keras_he.KerasHeError, match="mixed/mixing was not set: no rule says"):
        report.check()


def test_a_registered_layer_is_measured():
    class Mix(layers.Layer):
        def build(self, shape):
            self.mix = self.add_weight(shape=(shape[-1], shape[-1]), name="mix")

        def call(self, x):
            return keras.ops.matmul(x, self.mix) + 0.25

    keras_he.register_kernels(Mix, lambda layer: {"mix": {}})
    model = keras.Sequential([keras.Input((32,)), Mix(), layers.ReLU(), layers.Dense(8)])
    batch = batch_for(model)
    report = keras_he.initialize(model, batch, seed=1)
    assert [row.rule for row in report.kernels] == ["measured", "measured"]
    mixed = keras.ops.convert_to_numpy(model.layers[0](batch)) - 0.25
    assert np.mean(np.square(mixed)) == pytest.approx(1.0, rel=0.02)


def test_all_calls_decide_for_a_shared_layer():
    model = architectures.shared(10)
    report = keras_he.initialize(model, batch_for(model), seed=1)
    row = next(row for row in report.kernels if row.path == "shared/kernel")
    assert len(row.moments) == 10
    # By the first call alone the last one would get 0.005.
    assert np.exp(np.mean(np.log(row.moments))) == pytest.approx(1.0, rel=0.2)
    assert "×10" in str(report)
    spread = math.log10(max(row.moments) / min(row.moments))
    assert report.forward_spread >= spread > 0.1
    with pytest.raises(keras_he.KerasHeError, match="forward spread"):
        report.check()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"only": "dense_1"}, {"dense_1/kernel", "dense_1/bias"}),
        ({"only": ["*/kernel"], "skip": "dense"}, {"dense_1/kernel", "dense_2/kernel"}),
        ({"only": lambda path: path.endswith("dense/kernel")}, {"dense/kernel"}),
    ],
    ids=["layer", "patterns", "predicate"],
)
def test_only_and_skip_choose_variables(choice, expected):
    names = ("dense", "dense_1", "dense_2")
    model = keras.Sequential([keras.Input((8,)), *(layers.Dense(8, name=name) for name in names)])
    report = keras_he.initialize(model, seed=1, **choice)
    assert {row.path for row in report.rows if not row.left} == expected
    report.check()


def test_a_dry_run_tells_the_same_and_writes_nothing():
    model = architectures.unet()
    batch = batch_for(model)
    before = numbers(model)
    told = keras_he.initialize(model, batch, seed=1, dry_run=True)
    for one, other in zip(before, numbers(model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert isinstance(model.layers[1].kernel_initializer, keras.initializers.GlorotUniform)
    done = keras_he.initialize(model, batch, seed=1)
    assert told.rows == done.rows
    assert (told.written, done.written) == (False, True)


def test_without_data_everything_is_analytic():
    model = architectures.unet()
    report = keras_he.initialize(model, data=False, seed=1)
    gains = {row.activation: row.gain for row in report.kernels}
    assert {row.rule for row in report.kernels} == {"analytic"}
    assert gains["relu"] == pytest.approx(math.sqrt(2))
    assert gains["linear"] == 1.0
    assert report.forward_spread == 0.0


@pytest.mark.quick(3)
def test_a_second_call_changes_nothing(small):
    batch = batch_for(small)
    first = keras_he.initialize(small, batch, seed=7)
    before = numbers(small)
    second = keras_he.initialize(small, batch, seed=7)
    for one, other in zip(before, numbers(small), strict=True):
        np.testing.assert_array_equal(one, other)
    assert first == second


def test_automatic_names_and_layers_elsewhere_do_not_reshuffle():
    def build(more):
        inputs = keras.Input((16,))
        x = layers.Dense(16, activation="relu")(inputs)
        if more:
            layers.Dense(3)  # moves the count of automatic names
            x = layers.LayerNormalization()(x)
            x = layers.Dropout(0.1)(x)
        x = layers.Dense(16)(x)
        heads = [layers.Dense(7)(x)] + ([layers.Dense(5)(x)] if more else [])
        return keras.Model(inputs, heads)

    draws = []
    for more in (False, True):
        model = build(more)
        keras_he.initialize(model, seed=3, data=False)
        kernels = [layer.kernel for layer in model.layers if isinstance(layer, layers.Dense)]
        draws.append([keras.ops.convert_to_numpy(one) / np.std(one) for one in kernels[:3]])
    for one, other in zip(*draws, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_names_with_underscores_and_layers_inside_do_not_reshuffle():
    class _My_Block(layers.Layer):  # noqa: N801 - the underscores are the case
        def __init__(self, more):
            super().__init__()
            self.first = layers.Dense(8, activation=layers.PReLU())
            self.more = layers.Dense(5) if more else None

        def call(self, x):
            x = self.first(x)
            return self.more(x) if self.more else x

    kernels = []
    for more in (False, False, True):
        model = keras.Sequential([keras.Input((8,)), _My_Block(more), layers.Dense(3)])
        keras_he.initialize(model, seed=3)
        first = keras.ops.convert_to_numpy(model.layers[0].first.kernel)
        keras_he.initialize(model, seed=3)
        np.testing.assert_array_equal(
            first, keras.ops.convert_to_numpy(model.layers[0].first.kernel)
        )
        kernels.append(first)
    np.testing.assert_array_equal(kernels[0], kernels[1])
    np.testing.assert_array_equal(kernels[0], kernels[2])


def test_the_global_generators_are_not_moved():
    model = architectures.transformer(1)
    before, numpys = random.getstate(), np.random.get_state()[1].tolist()
    keras_he.initialize(model, seed=1)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == (before, numpys)


def test_layers_of_one_shape_are_drawn_apart():
    model = architectures.dense_chain("relu", depth=4, width=32)
    keras_he.initialize(model, seed=1)
    kernels = [one.kernel for one in model.layers if isinstance(one, layers.Dense)][:4]
    draws = [np.ravel(keras.ops.convert_to_numpy(one)) for one in kernels]
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.2  # 6 sigma of 1024 values


def test_no_stream_is_one_that_a_user_would_take():
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64)])
    keras_he.initialize(model, seed=0)
    kernel = np.ravel(keras.ops.convert_to_numpy(model.layers[0].kernel))
    users = np.random.default_rng(0).normal(size=4096)
    assert abs(np.corrcoef(kernel, users)[0, 1]) < 0.1


def rebuilt(model):
    """Returns a model made again from the JSON of another."""
    return keras.models.model_from_json(model.to_json())


@pytest.mark.parametrize("name", ["dense", "separable", "decoder", "unet", "nested", "recurrent"])
def test_a_clone_has_the_weights_that_the_report_promises(name):
    model = architectures.SMALL[name]()
    report = keras_he.initialize(model, batch_for(model), seed=1)
    for clone in (keras.models.clone_model(model), rebuilt(model)):
        ours = {row.path: row for row in report.rows}
        kernels = dict(zip(ours, _variables(model), strict=True))
        again = dict(zip(ours, _variables(clone), strict=True))
        for path, row in ours.items():
            if row.role == "kernel":
                same = np.array_equal(kernels[path], again[path])
                assert same == (row.clone == "same"), path
    kinds = {row.clone for row in report.kernels}
    assert kinds == ({"same", "draws anew"} if name == "recurrent" else {"same"})


def _variables(model):
    """Returns the values of a model's variables in the order of the report's rows."""
    from keras_he.layers.variables import ModelVariable, variables
    from keras_he.layers.walk import places

    found = variables(model, places(model), ModelVariable)
    return [keras.ops.convert_to_numpy(one.variable) for one in found]


class Hiding(layers.Layer):
    """A layer whose rule fails, so that the dropout inside it is known from the pass alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = layers.Dropout(0.5, seed=1, name="hidden")

    def build(self, shape):
        self.w = self.add_weight(shape=(8, 8), name="w", initializer="identity")

    def call(self, x, training=None):
        return self.dropout(keras.ops.matmul(x, self.w), training=training)


class Spare(keras.Model):
    """A model with a dropout that it never calls."""

    def __init__(self):
        super().__init__()
        self.spare, self.norm = layers.Dropout(0.5), layers.BatchNormalization()
        self.head = layers.Dense(2)

    def call(self, x, training=None):
        scaled = x * 2.0 if training else x
        return self.head(self.norm(scaled, training=training))


def test_statistics_are_of_a_pass_without_the_masks_of_a_hidden_dropout(monkeypatch):
    monkeypatch.setattr(rules, "RULES", {**rules.RULES, Hiding: lambda layer: {"typo": {}}})
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((8,)), Hiding(), norm, layers.Dense(2)])
    batch = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    report = keras_he.initialize(model, batch, seed=1)
    assert report.random_layers == ("hidden",)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(norm.moving_variance), batch.var(axis=0), rtol=1e-5
    )
    assert [path.rpartition("/")[2] for path in keras_he.audit(model).random_layers] == ["hidden"]


def test_a_dropout_that_is_never_called_changes_nothing():
    model = Spare()
    batch = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    report = keras_he.initialize(model, batch, seed=1)
    assert report.random_layers == ()
    expected = 4 * batch.var(axis=0)  # of the pass in training mode, which doubles the batch
    variance = keras.ops.convert_to_numpy(model.norm.moving_variance)
    np.testing.assert_allclose(variance, expected, rtol=1e-5)


def test_the_dropout_of_a_recurrent_cell_is_not_among_the_layers_that_the_pass_sees():
    lstm = layers.LSTM(4, dropout=0.5)
    model = keras.Sequential([keras.Input((5, 8)), lstm, layers.Dense(2)])
    assert keras_he.initialize(model, seed=1).random_layers == ()


def test_the_pass_over_the_final_model_sees_each_step_of_a_time_distributed_layer():
    inner = layers.TimeDistributed(layers.Dense(16, "relu"))
    model = keras.Sequential([keras.Input((3, 8)), inner, layers.Dense(4)])
    report = keras_he.initialize(model, seed=1, mode="fan_out")
    assert len(report.rows[0].moments) == 1  # all steps in one
    assert len(keras_he.initialize(model, seed=1).rows[0].moments) == 1


class NamedBias(layers.Layer):
    """A layer that calls its kernel `bias`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.relu

    def build(self, shape):
        self.bias = self.add_weight(shape=(shape[-1], 4), name="bias")

    def call(self, x):
        return self.activation(keras.ops.matmul(x, self.bias))


def test_a_kernel_that_is_called_bias_is_no_bias(monkeypatch):
    monkeypatch.setattr(rules, "RULES", {**rules.RULES, NamedBias: lambda layer: {"bias": {}}})
    model = keras.Sequential([keras.Input((8,)), NamedBias(name="own"), layers.Dense(2)])
    report = keras_he.initialize(model, seed=1)
    assert report.kernels[0].path == "own/bias"
    assert [row.rule for row in report.kernels] == ["measured"] * 2
    assert report.kernels[0].moments[0] == pytest.approx(1.0, rel=0.01)  # three digits of a gain


def test_a_frozen_kernel_that_is_called_bias_keeps_its_values_in_the_pass(monkeypatch):
    monkeypatch.setattr(rules, "RULES", {**rules.RULES, NamedBias: lambda layer: {"bias": {}}})
    model = keras.Sequential([keras.Input((8,)), NamedBias(trainable=False), layers.Dense(2)])
    batch = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    report = keras_he.initialize(model, batch, seed=1)
    assert [row.left for row in report.kernels] == ["frozen", ""]
    outputs = keras.ops.convert_to_numpy(model(batch))
    assert np.mean(np.square(outputs)) == pytest.approx(1.0, rel=0.01)  # three digits of a gain


def test_attention_is_left_without_a_seed():
    model = architectures.transformer(1, attention=layers.GroupQueryAttention)
    report = keras_he.initialize(model, batch_for(model), seed=1)
    rows = [row for row in report.kernels if "query" in row.path or "key" in row.path]
    assert {row.clone for row in rows} == {"draws anew"}
    kernels = {row.path: value for row, value in zip(report.rows, _variables(model), strict=True)}
    key = next(value for path, value in kernels.items() if path.endswith("key/kernel"))
    value = next(value for path, value in kernels.items() if path.endswith("value/kernel"))
    assert not np.array_equal(key, value)


def test_the_config_holds_the_gain_and_the_geometry():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 6)),
            layers.Conv2DTranspose(6, 4, strides=2, name="up"),
            layers.DepthwiseConv2D(3, name="depth"),
        ]
    )
    report = keras_he.initialize(model, seed=1)
    up, depth = model.get_layer("up"), model.get_layer("depth")
    assert up.kernel_initializer.geometry == "transpose"
    assert up.kernel_initializer.strides == (2, 2)
    assert depth.depthwise_initializer.geometry == "depthwise"
    assert up.kernel_initializer.gain == report.kernels[0].gain


def test_mixed_precision_is_measured_in_float32():
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    inputs = x = keras.Input((32,), dtype="float32")
    for _ in range(20):
        x = layers.Dense(64, activation="relu", dtype=policy)(x)
    model = keras.Model(inputs, layers.Dense(4, dtype="float32")(x))
    report = keras_he.initialize(model, seed=1)
    assert report.forward_spread < 0.05
    assert all(one.dtype == "float32" for one in model.weights)


def test_a_trained_optimizer_is_told():
    model = architectures.dense_chain("relu", depth=2, width=8)
    model.compile("adam", "mse")
    batch = batch_for(model)
    assert not keras_he.initialize(model, batch, seed=1).warnings
    model.fit(batch, np.zeros((32, 10)), verbose=0)
    report = keras_he.initialize(model, batch, seed=1)
    assert report.warnings == ("the optimizer holds the state of 1 steps: compile the model again",)
    model.fit(batch, np.zeros((32, 10)), verbose=0)


def test_progress_is_shown_on_slow_models_only(capsys, monkeypatch):
    model = architectures.dense_chain("relu", depth=3, width=8)
    keras_he.initialize(model, seed=1)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("keras_he.passes.model_checks._PATIENCE", 0.0)
    keras_he.initialize(model, seed=1)
    assert "layer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "fanin"}, 'Did you mean "fan_in"'),
        ({"law": "gaussian"}, "`law` must be one of 'normal', 'uniform'"),
        ({"residual": "width"}, "`residual` must be one of 'depth', None"),
        ({"statistics": None}, "`statistics` must be one of 'batch', 'initial'"),
        ({"seed": -1}, "`seed` must be an integer of at least 0"),
        ({"seed": 1.5}, "`seed` must be an integer of at least 0"),
        ({"only": "densee"}, "`only` must be patterns that fit paths of the model"),
        ({"skip": 3}, "`skip` must be a path pattern"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(arguments, message):
    model = architectures.dense_chain("relu", depth=1, width=8)
    with pytest.raises(keras_he.KerasHeError, match=message):
        keras_he.initialize(model, **arguments)


def test_a_model_that_was_never_called_is_built_by_its_data():
    model = architectures.SubclassedResNet()
    with pytest.raises(keras_he.KerasHeError, match="`data` must be given"):
        keras_he.initialize(model)
    report = keras_he.initialize(model, batch_for(model), seed=1)
    report.check()


def test_a_model_without_a_config_is_told():
    class Bare(keras.Model):
        def __init__(self, width):
            super().__init__()
            self.dense = layers.Dense(width)

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            raise NotImplementedError

    report = keras_he.initialize(Bare(4), np.ones((8, 3), "float32"), seed=1)
    assert "no clone can be made: get_config raised NotImplementedError" in report.warnings
    assert {row.clone for row in report.kernels} == {"draws anew"}


def test_no_model_is_refused():
    with pytest.raises(keras_he.KerasHeError, match="`model` must be a Keras model"):
        keras_he.initialize("model")
