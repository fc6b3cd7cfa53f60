"""The batch that a model is measured on, from every kind of data that `fit` takes."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_he
from keras_he.passes.inputs import first_batch


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
    np.testing.assert_array_equal(first_batch(dense(), data, 0), X[:20])
    gains = [row.gain for row in keras_he.initialize(dense(), data, seed=1).kernels]
    assert gains == [row.gain for row in keras_he.initialize(dense(), X[:20], seed=1).kernels]


def test_a_dict_goes_to_the_inputs_by_name():
    model = two_inputs()
    batch = {"b": X[:, :3], "a": X[:, 3:7]}
    np.testing.assert_array_equal(first_batch(model, batch, 0)["b"], X[:, :3])
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
    assert first_batch(dense(), large, 0).shape == (256, 8)
    images = np.broadcast_to(np.float32(0), (1000, 512, 512, 3))
    assert len(first_batch(dense(), images, 0)) == 32


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
    drawn = first_batch(model, None, 5)
    assert [one.shape[1:] for one in drawn] == [(16,), (16,), (64, 64, 3)]
    assert drawn[0].min() == 0
    assert drawn[0].max() == 10
    assert set(np.ravel(drawn[1])) == {1}
    assert abs(drawn[2].std() - 1) < 0.02
    for one, again in zip(drawn, first_batch(model, None, 5), strict=True):
        np.testing.assert_array_equal(one, again)
    keras_he.initialize(model, seed=1).check()


def test_integers_without_an_embedding_ask_for_data():
    tokens = keras.Input((4,), dtype="int32")
    model = keras.Model(tokens, layers.Dense(2)(layers.CategoryEncoding(5)(tokens)))
    with pytest.raises(keras_he.KerasHeError, match="`data` must be given: no embedding says"):
        keras_he.initialize(model)
    keras_he.initialize(model, np.array([[0, 1, 2, 3], [4, 4, 1, 0]]), seed=1).check()


def test_masks_are_ones_and_other_names_are_not():
    names = ("mask", "padding_mask", "image_unmasked", "masked_features")
    inputs = [keras.Input((4,), name=name) for name in names]
    model = keras.Model(inputs, layers.Concatenate()(inputs))
    drawn = dict(zip(names, first_batch(model, None, 0), strict=True))
    assert {name for name, one in drawn.items() if (one == 1).all()} == {"mask", "padding_mask"}


def test_a_fixed_batch_size_is_kept():
    inputs = keras.Input(batch_shape=(3, 8))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    assert first_batch(model, None, 0).shape == (3, 8)
    keras_he.initialize(model, seed=1).check()
