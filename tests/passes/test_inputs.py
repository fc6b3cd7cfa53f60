"""The batch that a model is measured on, from every kind of data that `fit` takes."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_he
from keras_he.passes.inputs import batch_of


def dense(inputs=8):
    return keras.Sequential([keras.Input((inputs,)), layers.Dense(4), layers.Dense(2)])


def two_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    return keras.Model({"a": a, "b": b}, layers.Dense(2)(layers.Concatenate()([a, b])))


X = np.random.default_rng(3).normal(size=(40, 8)).astype("float32")
Y = np.zeros((40, 2), "float32")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X[20 * index : 20 * index + 20], Y[20 * index : 20 * index + 20]


def tensorflow_dataset():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(20)


def torch_loader():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return torch.utils.data.DataLoader(data, batch_size=20)


@pytest.mark.parametrize(
    "make",
    [lambda: Batches(), tensorflow_dataset, torch_loader, lambda: X[:20], lambda: X[:20].tolist()],
    ids=["PyDataset", "tf.data", "DataLoader", "array", "list"],
)
def test_the_first_batch_of_every_kind_of_data_is_the_same(make):
    data = make()
    if isinstance(data, list):
        data = np.asarray(data)  # a list holds one array per input
    np.testing.assert_array_equal(batch_of(dense(), data, 0).inputs, X[:20])
    gains = [row.gain for row in keras_he.initialize(dense(), data, seed=1).kernels]
    assert gains == [row.gain for row in keras_he.initialize(dense(), X[:20], seed=1).kernels]


def test_a_dict_goes_to_the_inputs_by_name():
    model = two_inputs()
    batch = {"b": X[:, :3], "a": X[:, 3:7]}
    np.testing.assert_array_equal(batch_of(model, batch, 0).inputs["b"], X[:, :3])
    keras_he.initialize(model, batch, seed=1).check()


def test_a_dataset_is_not_used_up():
    data = tensorflow_dataset()
    keras_he.initialize(dense(), data, seed=1)
    assert len(list(data)) == 2


def test_a_shuffling_loader_does_not_move_the_generator():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X))
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    keras_he.initialize(dense(), loader, seed=1)
    assert torch.equal(torch.rand(2), expected)


def test_iterators_are_refused_with_the_remedy():
    for iterator in (iter([X]), (x for x in [X]), iter(Batches())):
        with pytest.raises(keras_he.KerasHeError, match=r"`data=next\(it\)`"):
            keras_he.initialize(dense(), iterator)


def test_a_whole_data_set_counts_by_its_first_samples():
    large = np.zeros((10_000, 8), "float32")
    assert batch_of(dense(), large, 0).inputs.shape == (256, 8)
    images = np.broadcast_to(np.float32(0), (1000, 512, 512, 3))
    assert len(batch_of(dense(), images, 0).inputs) == 32


@pytest.mark.parametrize(
    "data",
    [np.zeros((0, 8), "float32"), [], np.array(["a"]), 5, [[1.0, 2.0]]],
    ids=["no sample", "nothing", "text", "a number", "lists of numbers"],
)
def test_data_that_cannot_be_measured_on_is_refused(data):
    with pytest.raises(keras_he.KerasHeError, match="`data` must be"):
        keras_he.initialize(dense(), data)


def test_the_synthetic_batch_fits_the_inputs():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    image = keras.Input((None, None, 3), name="image")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(11, 4)(tokens))
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    z = layers.GlobalAveragePooling1D()(layers.Embedding(2, 4)(mask))
    model = keras.Model([tokens, mask, image], layers.Dense(2)(layers.Concatenate()([x, y, z])))
    drawn = batch_of(model, None, 5).inputs
    assert [one.shape[1:] for one in drawn] == [(16,), (16,), (64, 64, 3)]
    assert drawn[0].min() == 0
    assert drawn[0].max() == 10
    assert set(np.ravel(drawn[1])) == {1}
    assert abs(drawn[2].std() - 1) < 0.02
    for one, again in zip(drawn, batch_of(model, None, 5).inputs, strict=True):
        np.testing.assert_array_equal(one, again)
    keras_he.initialize(model, seed=1).check()


def test_integers_without_an_embedding_ask_for_data():
    tokens = keras.Input((4,), dtype="int32")
    model = keras.Model(tokens, layers.Dense(2)(layers.Flatten()(keras.ops.one_hot(tokens, 5))))
    with pytest.raises(keras_he.KerasHeError, match="`data` must be given: no embedding says"):
        keras_he.initialize(model)
    keras_he.initialize(model, np.array([[0, 1, 2, 3], [4, 4, 1, 0]]), seed=1).check()


def test_masks_are_ones_and_other_names_are_not():
    names = ("mask", "padding_mask", "image_unmasked", "masked_features")
    inputs = [keras.Input((4,), name=name) for name in names]
    model = keras.Model(inputs, layers.Concatenate()(inputs))
    drawn = dict(zip(names, batch_of(model, None, 0).inputs, strict=True))
    assert {name for name, one in drawn.items() if (one == 1).all()} == {"mask", "padding_mask"}


def test_a_fixed_batch_size_is_kept():
    inputs = keras.Input(batch_shape=(3, 8))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    assert batch_of(model, None, 0).inputs.shape == (3, 8)
    keras_he.initialize(model, seed=1).check()


def test_as_many_samples_are_taken_as_the_model_fixes():
    inputs = keras.Input(batch_shape=(3, 5, 4))
    model = keras.Model(inputs, layers.LSTM(4, stateful=True)(inputs))
    data = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32")
    np.testing.assert_array_equal(batch_of(model, data, 0).inputs, data[:3])
    keras_he.initialize(model, data, seed=1).check()
    with pytest.raises(keras_he.KerasHeError, match="`data` must have at least 3 samples"):
        keras_he.initialize(model, data[:2])


def test_only_the_first_axis_must_not_be_empty():
    a, b = keras.Input((4,)), keras.Input((None,))
    total = layers.Lambda(lambda x: keras.ops.sum(x, axis=-1, keepdims=True))(b)
    model = keras.Model([a, b], layers.Dense(2)(a) + total)
    report = keras_he.initialize(model, [X[:, :4], np.zeros((40, 0), "float32")], seed=1)
    report.check()


def test_an_optional_input_may_be_none_and_inputs_may_be_nested():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b", optional=True)

    class First(layers.Layer):
        def call(self, x, y=None):
            return x if y is None else x + y

        def compute_output_shape(self, x_shape, y_shape=None):
            return x_shape

    model = keras.Model({"one": [a, b]}, layers.Dense(2)(First()(a, b)))
    data = {"one": [X[:, :4], None]}
    keras_he.initialize(model, data, seed=1).check()
    assert keras_he.audit(model, data).data == "40 given samples"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_data_that_is_not_finite_is_blamed_by_the_name_of_the_input(bad):
    model = two_inputs()
    before = [one.copy() for one in model.get_weights()]
    data = {"a": X[:, 3:7], "b": X[:, :3].copy()}
    data["b"][7, 1] = bad
    message = "`data` must be finite. Received: NaN or infinity in 1 of 120 values of the input `b`"
    with pytest.raises(keras_he.KerasHeError, match=f"{message}, first in sample 7"):
        keras_he.initialize(model, data, seed=1)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_additive_mask_may_be_infinite():
    a, mask = keras.Input((4,), name="a"), keras.Input((4,), name="mask")
    shared = layers.Softmax()(a + mask)
    data = [X[:, :4], np.where(np.arange(4) < 2, 0, -np.inf) * np.ones((40, 1))]
    batch_of(keras.Model([a, mask], layers.Dense(2)(shared)), data, 0)
