"""The zoo itself: every model runs, and `outside` measures what NumPy computes by hand."""

import keras
import numpy as np
import outside
import pytest
import zoo
from keras import layers


def finite(outputs):
    arrays = [keras.ops.convert_to_numpy(one) for one in keras.tree.flatten(outputs)]
    return all(np.isfinite(one.astype("float64")).all() for one in arrays)


@pytest.mark.quick(12)
@pytest.mark.parametrize("name", zoo.MODELS)
def test_a_model_runs_and_all_its_kernels_are_measured(name):
    model, batch = zoo.build(name)
    before = [np.array(keras.ops.convert_to_numpy(one)) for one in model.variables]
    for training in (True, False):
        with keras.StatelessScope():
            assert finite(model(batch, training=training))
        found = outside.measure(model, batch, training)
        halves = {key for key in found if key.endswith(outside.FIRST_HALF)}
        assert set(found) - halves == set(outside.holders(model))
        assert all(np.isfinite(values).all() and min(values) >= 0.0 for values in found.values())
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))


def dense_by_hand():
    """Returns three dense layers, their batch and kernels, and what NumPy makes of them."""
    rng = np.random.default_rng(5)
    batch = rng.standard_normal((32, 6)).astype("float32")
    kernels = [rng.standard_normal(shape).astype("float32") for shape in ((6, 8), (8, 8), (8, 3))]
    bias = np.array([0.5, -1.0, 2.0], "float32")
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", use_bias=False, name="first"),
            layers.Dense(8, activation="tanh", use_bias=False, name="second"),
            layers.Dense(3, name="third"),
        ]
    )
    model.set_weights([*kernels, bias])
    wide = [one.astype("float64") for one in kernels]
    first = batch.astype("float64") @ wide[0]
    second = np.maximum(first, 0.0) @ wide[1]
    third = np.tanh(second) @ wide[2] + bias
    return model, batch, wide, (first, second, third)


def keyed(numbers):
    """Returns the first number of each layer, by the last part of its path."""
    return {key.split("/")[-1]: values[0] for key, values in numbers.items()}


def test_dense_layers_are_measured_as_numpy_computes_them():
    model, batch, _, values = dense_by_hand()
    expected = {
        name: np.mean(np.square(value))
        for name, value in zip(("first", "second", "third"), values, strict=True)
    }
    assert keyed(outside.measure(model, batch, False)) == pytest.approx(expected, rel=1e-5)


def test_gradients_are_those_of_the_chain_rule():
    model, batch, kernels, (first, second, third) = dense_by_hand()
    direction = np.random.default_rng(0).standard_normal(third.shape)
    by_second = direction @ kernels[2].T * (1.0 - np.tanh(second) ** 2)
    by_first = by_second @ kernels[1].T * (first > 0.0)
    expected = {
        name: np.mean(np.square(value))
        for name, value in (("first", by_first), ("second", by_second), ("third", direction))
    }
    assert keyed(outside.gradients(model, batch)) == pytest.approx(expected, rel=1e-4)
