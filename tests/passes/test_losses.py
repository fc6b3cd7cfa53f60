"""Losses as `compile` takes them, and the gradient that follows from them."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_he

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6)).astype("float32")
A, B = RNG.normal(size=(16, 3)).astype("float32"), RNG.integers(0, 2, (16, 1)).astype("float32")


def two_outputs(*, named=False):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, name="hidden")(inputs)
    a = layers.Dense(3, name="a")(hidden)
    b = layers.Dense(1, activation="sigmoid", name="b")(hidden)
    return keras.Model(inputs, {"a": a, "b": b} if named else [a, b])


def square_gradients(model, weight_a, weight_b):
    """Returns the second moment of the gradient by the kernel of each output, written out."""
    hidden = X @ np.asarray(model.get_layer("hidden").kernel)
    out_a = hidden @ np.asarray(keras.ops.convert_to_numpy(model.get_layer("a").kernel))
    out_b = hidden @ np.asarray(keras.ops.convert_to_numpy(model.get_layer("b").kernel))
    by_a = 2 * (out_a - A) / A.size  # of the mean of squares
    by_b = (1 / (1 + np.exp(-out_b)) - B) / B.size  # of the mean of cross-entropies
    return weight_a**2 * np.mean((hidden.T @ by_a) ** 2), weight_b**2 * np.mean(
        (hidden.T @ by_b) ** 2
    )


BY_NAME = {"a": "mse", "b": keras.losses.BinaryCrossentropy()}
IN_ORDER = ["mse", "binary_crossentropy"]


@pytest.mark.parametrize(
    ("named", "loss", "weights", "targets"),
    [
        (False, IN_ORDER, None, [A, B]),
        (False, BY_NAME, {"a": 3.0, "b": 0.5}, [A, B]),
        (False, IN_ORDER, [3.0, 0.5], {"a": A, "b": B}),
        (True, BY_NAME, {"a": 3.0, "b": 0.5}, {"a": A, "b": B}),
        (True, {"a": "mse", "b": None}, None, {"a": A, "b": B}),
    ],
    ids=["list", "names", "weights", "dict", "one"],
)
def test_the_gradient_is_that_of_the_weighted_sum(named, loss, weights, targets):
    model = two_outputs(named=named)
    report = keras_he.audit(model, (X, targets), loss=loss, loss_weights=weights)
    found = {row.path: row.figures.kernel_gradient for row in report.kernels}
    factors = (3.0, 0.5) if weights else (1.0, 0.0 if isinstance(loss, dict) else 1.0)
    a, b = square_gradients(model, *factors)
    assert found["a/kernel"] == pytest.approx(a, rel=1e-3)
    assert found["b/kernel"] == pytest.approx(b, rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "weights", "message"),
    [
        ({"a": "mse", "b": "msee"}, None, "`loss` must be the name of a Keras loss"),
        ({"a": "mse", "b": 3}, None, "`loss` must be a Keras loss"),
        ({"a": "mse", "c": "mse"}, None, "`loss` must give numbers"),
        (None, {"a": 1.0}, "`loss_weights` must be None"),
        (IN_ORDER, 3 + 4j, "`loss_weights` must be weights as `model.compile` takes them"),
        (IN_ORDER, [1.0, 2.0, 3.0], "`loss` must give numbers"),
    ],
)
def test_what_compile_does_not_take_is_refused(loss, weights, message):
    with pytest.raises(keras_he.KerasHeError, match=message):
        keras_he.audit(two_outputs(), (X, [A, B]), loss=loss, loss_weights=weights)


def test_the_compiled_model_is_not_touched():
    model = two_outputs()
    model.compile("sgd", loss=IN_ORDER)
    keras_he.audit(model, (X, [A, B]), loss=BY_NAME)
    assert model.loss is IN_ORDER or list(model.loss) == IN_ORDER
    assert len(model.metrics) == 0 or model.metrics[0].name == "loss"
