"""The zoo itself: every model runs, and `outside` measures what NumPy computes by hand."""

import keras
import numpy as np
import outside
import pytest
import zoo
from keras import layers

# One of each kind of layer that `outside` treats in its own way.
KINDS = (
    "mlp mixed_float16",
    "tied autoencoder",
    "siamese",
    "separable signal",
    "separable without norm",
    "sequence to sequence",
    "recurrent masked",
    "convolutional lstm",
    "stacked cells",
    "frames",
    "closed-form cell",
    "vit subclassed",
)


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


@pytest.mark.parametrize("name", KINDS)
def test_the_watched_pass_is_that_of_the_model(name):
    """Own loops over steps and replaced calls change no output, and leave nothing behind."""
    model, batch = zoo.build(name)
    replaced = {"call", "activation", "recurrent_activation", "inner_loop"}
    held = [replaced & set(vars(one)) for one in model._flatten_layers()]
    expected = keras.tree.flatten(model(batch, training=False))
    watched = outside._run(model, batch, False, lambda key, call, value: value)
    for one, other in zip(keras.tree.flatten(watched), expected, strict=True):
        one, other = map(keras.ops.convert_to_numpy, (one, other))
        # Rounding of float32, in another order; of float16 layers, ahead of a float32 head.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert held == [replaced & set(vars(one)) for one in model._flatten_layers()]


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_found_where_signals_are(name):
    model, batch = zoo.build(name)
    signals = outside.measure(model, batch, True)
    gradients = outside.gradients(model, batch)
    assert {key: len(calls) for key, calls in gradients.items()} == {
        key: len(calls) for key, calls in signals.items()
    }
    assert all(0.0 < sum(calls) < np.inf for calls in gradients.values())


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
    return model, batch, wide, bias, (first, second, third)


def mean_squares(**values):
    return {name: np.mean(np.square(value)) for name, value in values.items()}


def keyed(numbers):
    """Returns the first number of each layer, by the last part of its path."""
    return {key.split("/")[-1]: values[0] for key, values in numbers.items()}


def test_dense_layers_are_measured_as_numpy_computes_them():
    model, batch, _, bias, (first, second, third) = dense_by_hand()
    expected = mean_squares(first=first, second=second, third=third)
    assert keyed(outside.measure(model, batch, False)) == pytest.approx(expected, rel=1e-5)
    expected = mean_squares(first=first, second=second, third=third - bias)
    without = outside.measure(model, batch, False, bias=False)
    assert keyed(without) == pytest.approx(expected, rel=1e-5)


def test_gradients_are_those_of_the_chain_rule():
    model, batch, kernels, _, (first, second, third) = dense_by_hand()
    direction = np.random.default_rng(0).standard_normal(third.shape)
    by_second = direction @ kernels[2].T * (1.0 - np.tanh(second) ** 2)
    by_first = by_second @ kernels[1].T * (first > 0.0)
    expected = mean_squares(first=by_first, second=by_second, third=direction)
    assert keyed(outside.gradients(model, batch)) == pytest.approx(expected, rel=1e-4)


def test_gates_of_an_lstm_are_measured_over_all_steps():
    rng = np.random.default_rng(6)
    batch, units = rng.standard_normal((32, 5, 4)).astype("float32"), 3
    model = keras.Sequential([keras.Input((5, 4)), layers.LSTM(units, name="one")])
    model.set_weights(
        [rng.standard_normal(one.shape).astype("float32") for one in model.get_weights()]
    )
    kernel, recurrent, bias = (one.astype("float64") for one in model.get_weights())

    def sigmoid(x):
        return 1.0 / (1.0 + np.exp(-x))

    output = state = np.zeros((32, units))
    gates = []
    for step in range(5):
        gates.append(batch[:, step] @ kernel + output @ recurrent + bias)
        into, forget, candidate, out = np.split(gates[-1], 4, axis=1)
        state = sigmoid(forget) * state + sigmoid(into) * np.tanh(candidate)
        output = sigmoid(out) * np.tanh(state)
    (found,) = outside.measure(model, batch, False).values()
    assert found == pytest.approx([np.mean(np.square(gates))], rel=1e-4)


def test_steps_of_a_distributed_layer_are_one_call():
    batch = np.random.default_rng(7).standard_normal((8, 5, 4)).astype("float32")
    dense = layers.Dense(3, use_bias=False)
    model = keras.Sequential([keras.Input((5, 4)), layers.TimeDistributed(dense)])
    kernel = keras.ops.convert_to_numpy(dense.kernel)
    (found,) = outside.measure(model, batch, False).values()
    assert found == pytest.approx([np.mean(np.square(batch @ kernel))], rel=1e-5)


def test_sums_between_layers_are_measured_in_their_order():
    inputs = keras.Input((4,))
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, inner_in + 2.0 * inner_in)
    outputs = layers.Add()([inner(inputs + inputs), inputs])
    batch = np.random.default_rng(8).standard_normal((16, 4)).astype("float32")
    expected = [np.mean(np.square(factor * batch)) for factor in (2.0, 6.0, 7.0)]
    found = outside.trunk(keras.Model(inputs, outputs), batch)
    assert found == pytest.approx(expected, rel=1e-5)
