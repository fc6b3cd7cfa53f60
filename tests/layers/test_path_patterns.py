"""`only` and `skip`: patterns, layers and functions."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_he


def model():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="in")], name="inner")
    inputs = keras.Input((8,))
    hidden = layers.Dense(8, name="mid")(inner(inputs))
    return keras.Model(inputs, layers.Dense(2, name="head")(hidden))


def set_kernels(report):
    return {row.path for row in report.kernels if not row.left}


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        (lambda m: m.get_layer("mid"), {"mid/kernel"}),
        (lambda m: m.get_layer("inner"), {"inner/in/kernel"}),
        (lambda m: [m.get_layer("mid"), "head"], {"mid/kernel", "head/kernel"}),
        (lambda m: m, {"inner/in/kernel", "mid/kernel", "head/kernel"}),
    ],
    ids=["layer", "model", "list", "itself"],
)
def test_layers_and_models_select_what_is_in_them(choose, expected):
    made = model()
    every = {"inner/in/kernel", "mid/kernel", "head/kernel"}
    assert set_kernels(keras_he.initialize(made, only=choose(made), dry_run=True)) == expected
    assert set_kernels(keras_he.initialize(made, skip=choose(made), dry_run=True)) == (
        every - expected
    )


@pytest.mark.parametrize(
    "choice",
    [
        keras.initializers.HeNormal(),
        layers.Dense,
        lambda: True,
        5,
        [3],
        layers.Dense(4),
        layers.ReLU(),
        np.zeros(3),
    ],
    ids="initializer class no-argument number numbers other no-weights array".split(),
)
def test_anything_else_is_refused(choice):
    for argument in ("only", "skip"):
        with pytest.raises(keras_he.KerasHeError, match=f"`{argument}` must be"):
            keras_he.initialize(model(), **{argument: choice})


def test_check_does_not_ask_for_what_was_not_selected():
    made = model()
    keras_he.initialize(made, only="head", seed=1).check()
    keras_he.initialize(made, skip=made.get_layer("inner"), seed=1).check()


def test_check_still_asks_for_what_was_selected():
    made = model()
    made.get_layer("head").trainable = False
    with pytest.raises(keras_he.KerasHeError, match="head/kernel was not set: frozen"):
        keras_he.initialize(made, only=["head", "mid"], seed=1).check()
    keras_he.initialize(made, skip="head", seed=1).check()


def test_check_does_not_ask_for_a_matrix_without_a_rule_that_was_not_selected():
    class Odd(layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")

        def call(self, x):
            return keras.ops.matmul(x, self.matrix)

    made = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="mid"), Odd(name="odd")])
    with pytest.raises(keras_he.KerasHeError, match="odd/matrix was not set"):
        keras_he.initialize(made, seed=1).check()
    keras_he.initialize(made, skip="odd", seed=1).check()
