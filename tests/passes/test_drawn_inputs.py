"""The batch that is drawn without data: what the first layers say they take."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_he
from keras_he.passes.inputs import batch_of

MEANS, SPREADS = np.array([5.0, -3.0, 100.0]), np.array([1.0, 20.0, 50.0])


class Own(layers.Layer):
    """Divides inside its call, before a layer of its own."""

    def __init__(self, divisor, offset):
        super().__init__()
        self.inner = layers.Conv2D(3, 3)
        self.divisor, self.offset = divisor, offset

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x / self.divisor + self.offset)


def pictures(*first):
    return keras.Sequential([keras.Input((16, 16, 3)), *first, layers.Conv2D(4, 3)])


def of_features(*first, **kwargs):
    return keras.Sequential([keras.Input((3,), **kwargs), *first, layers.Dense(4)])


def operations():
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, layers.Conv2D(4, 3)((inputs - 127.5) / 127.5))


def nested():
    inner = keras.Sequential(
        [keras.Input((16, 16, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3)]
    )
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(inner(inputs))))


def of_bytes():
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    return keras.Model(inputs, layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(inputs)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: pictures(layers.Rescaling(1 / 255)),
        lambda: pictures(layers.Rescaling(1 / 127.5, offset=-1)),
        lambda: pictures(layers.Rescaling(1 / 255), layers.Normalization(mean=0.0, variance=1.0)),
        lambda: pictures(layers.RandomFlip(), layers.Resizing(8, 8), layers.Rescaling(1 / 255)),
        lambda: pictures(layers.Lambda(lambda x: x / 255)),
        lambda: pictures(layers.Lambda(lambda x: x - 127.5), layers.Lambda(lambda x: x / 127.5)),
        lambda: pictures(layers.Lambda(lambda x: keras.ops.clip(x, 0, 255) / 255)),
        lambda: pictures(Own(127.5, -1.0)),
        lambda: pictures(layers.RandomBrightness(0.2)),
        operations,
        nested,
        of_bytes,
    ],
    ids="rescaling symmetric stack augmented lambda lambdas clipped own range operations nested "
    "bytes".split(),
)
def test_images_are_drawn_for_what_maps_them_to_a_usual_range(make):
    samples = batch_of(make(), None, 3)
    assert samples.described.startswith("64 drawn samples: images of 0 to 255 for `")
    values = samples.inputs.astype("float64")
    assert (values.min(), values.max()) == (0.0, 255.0)
    assert np.array_equal(values, np.rint(values))
    # The mean of 49152 values, each of standard deviation 73.9, misses 127.5 by 7 sigma.
    assert abs(values.mean() - 127.5) < 7 * 73.9 / np.sqrt(values.size)


def test_an_image_in_half_precision_is_seen_too():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = pictures(layers.Rescaling(1 / 127.5, offset=-1))
    finally:
        keras.config.set_dtype_policy(policy)
    assert "images of 0 to 255" in batch_of(model, None, 0).described


@pytest.mark.parametrize("first", [(), (layers.Rescaling(0.01, offset=0.5),)], ids=["", "scaled"])
def test_an_adapted_normalization_gets_its_mean_and_spread(first):
    data = np.random.default_rng(0).normal(MEANS, SPREADS, (4000, 3)).astype("float32")
    layer = layers.Normalization(name="adapted")
    scaled = data if not first else data * 0.01 + 0.5
    layer.adapt(scaled)
    samples = batch_of(of_features(*first, layer), None, 1)
    assert samples.described == "64 drawn samples: values that `adapted` makes standard normal"
    drawn = samples.inputs
    # 64 draws: the mean misses by 5 sigma of 1/8, the spread by 5 sigma of 1/sqrt(128).
    assert np.all(np.abs(drawn.mean(0) - MEANS) < 5 * SPREADS / 8)
    assert np.all(np.abs(drawn.std(0) / SPREADS - 1) < 5 / np.sqrt(128))


def test_a_normalization_behind_a_rescaling_gets_images_of_its_statistics():
    layer = layers.Normalization(mean=[0.5, 0.4, 0.3], variance=[0.04] * 3)
    samples = batch_of(pictures(layers.Rescaling(1 / 255), layer), None, 1)
    assert "as integers of 0 to 255 for `rescaling" in samples.described
    assert 0 <= samples.inputs.min() <= samples.inputs.max() <= 255
    np.testing.assert_allclose(samples.inputs.mean((0, 1, 2)), [127.5, 102.0, 76.5], atol=3)


def test_constants_are_no_second_input_and_other_inputs_are_no_constants():
    a, b = keras.Input((16,), name="a"), keras.Input((16,), name="b")
    scaled = layers.Add()([a, b]) * np.full((16,), 1e-3, "float32")
    samples = batch_of(keras.Model([a, b], layers.Dense(2)(scaled)), None, 0)
    assert samples.described == "64 drawn samples: standard normal values"
    lone = keras.Model(a, layers.Dense(2)(a * np.full((16,), 1e-3, "float32")))
    assert batch_of(lone, None, 0).inputs.max() == pytest.approx(1000.0, rel=0.02)


@pytest.mark.parametrize("factor", [1000.0, 0.05])
def test_a_factor_that_says_no_range_is_made_up_for(factor):
    model = pictures(layers.Lambda(lambda x: x * factor))
    drawn = batch_of(model, None, 1).inputs * factor
    assert abs(drawn.std() - 1) < 0.02


def test_a_function_that_is_not_affine_gets_inputs_of_another_size():
    model = of_features(layers.Lambda(lambda x: keras.ops.tanh(x / 1e4), name="flat"))
    samples = batch_of(model, None, 1)
    assert 0.2 < np.tanh(samples.inputs / 1e4).std() < 2.0
    assert "`flat`" in samples.described


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_tokens_stay_below_the_vocabulary_whatever_their_dtype(dtype):
    tokens = keras.Input((16,), dtype=dtype, name="tokens")
    other = keras.Input((16, 4), name="other")
    x = layers.Embedding(11, 4, name="words")(tokens)
    model = keras.Model([tokens, other], layers.Dense(2)(layers.Add()([x, other])))
    samples = batch_of(model, None, 0)
    drawn = samples.inputs[0]
    assert (drawn.min(), drawn.max()) == (0, 10)
    assert np.array_equal(drawn, np.rint(drawn))
    assert samples.described == (
        "64 drawn samples: tokens: integers below 11 for `words`; other: standard normal values"
    )
    keras_he.initialize(model, seed=1).check()


def test_categories_stay_below_their_number():
    inputs = keras.Input((1,), dtype="int32")
    coded = layers.CategoryEncoding(5, output_mode="one_hot", name="coded")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(coded))
    samples = batch_of(model, None, 0)
    assert set(np.ravel(samples.inputs)) == {0, 1, 2, 3, 4}
    assert samples.described == "64 drawn samples: integers below 5 for `coded`"


def test_a_mask_is_known_by_the_argument_that_takes_it():
    x, allowed = keras.Input((6, 8)), keras.Input((6, 6), name="allowed")
    out = layers.MultiHeadAttention(2, 4)(x, x, attention_mask=allowed)
    drawn = batch_of(keras.Model([x, allowed], out), None, 0).inputs
    assert np.all(drawn[1] == 1)
    assert abs(drawn[0].std() - 1) < 0.05


def test_a_fixed_batch_size_counts_for_all_inputs():
    inputs = keras.Input(batch_shape=(3, 5, 4))
    model = keras.Model(inputs, layers.LSTM(4, stateful=True)(inputs))
    assert batch_of(model, None, 0).inputs.shape == (3, 5, 4)
    keras_he.initialize(model, seed=1).check()


def test_both_reports_say_in_the_first_sentence_what_was_drawn(tmp_path):
    model = pictures(layers.Rescaling(1 / 255, name="scale"))
    said = "64 drawn samples: images of 0 to 255 for `scale`"
    for report in (keras_he.initialize(model, seed=1), keras_he.audit(model)):
        assert report.data == said
        head = " ".join(str(report).split()).split(".")[0]
        assert head.endswith(f" on {said}")
        assert json.loads(report.to_json())["data"] == said
        report.to_html(tmp_path / "page.html")
        assert said in (tmp_path / "page.html").read_text("utf-8")
    given = np.zeros((5, 16, 16, 3), "float32") + 7
    assert keras_he.audit(model, given).data == "5 given samples"
    assert keras_he.initialize(model, data=False, seed=1).data == ""


def test_the_logits_are_of_size_1_on_images():
    model = pictures(layers.Rescaling(1 / 255), layers.Conv2D(8, 3, activation="relu"))
    keras_he.initialize(model, seed=1)
    images = np.random.default_rng(1).integers(0, 256, (16, 16, 16, 3)).astype("float32")
    outputs = keras.ops.convert_to_numpy(model(images))
    assert 0.5 < np.mean(outputs**2) < 2.0


@pytest.mark.slow
def test_efficientnet_is_of_ordinary_size_on_images():
    model = keras.applications.EfficientNetB0(
        weights=None, input_shape=(64, 64, 3), classifier_activation=None
    )
    report = keras_he.initialize(model, seed=1)
    assert "images of 0 to 255 for `rescaling" in report.data
    images = np.random.default_rng(1).integers(0, 256, (32, 64, 64, 3)).astype("float32")
    outputs = keras.ops.convert_to_numpy(model(images, training=False))
    assert 0.05 < np.mean(outputs**2) < 20.0
