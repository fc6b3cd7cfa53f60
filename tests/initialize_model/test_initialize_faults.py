"""All or nothing: whatever goes wrong, at whatever layer, the model is as it was."""

import architectures
import keras
import numpy as np
import pytest
from architectures import batch_for, numbers
from keras import layers

import keras_he
from keras_he.initialize_model import write as writer

NETWORKS = {
    "convolutions": lambda: keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.SeparableConv2D(8, 3),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    ),
    "residual": lambda: architectures.residual_blocks(2, width=8),
    "transformer": lambda: architectures.transformer(1, width=8),
    "subclassed": lambda: architectures.subclassed(depth=2, width=8),
    "recurrent": lambda: keras.Sequential(
        [keras.Input((4, 6)), layers.LSTM(4, return_sequences=True), layers.GRU(4), layers.Dense(2)]
    ),
}


class Stop(BaseException):
    """Like a user's interrupt, no Exception."""


def raising(call):
    def broken(*args, **kwargs):
        raise RuntimeError("broken on purpose")

    return broken


def interrupted(call):
    def broken(*args, **kwargs):
        raise Stop

    return broken


def not_a_number(call):
    return lambda *args, **kwargs: keras.tree.map_structure(
        lambda one: one * float("nan"), call(*args, **kwargs)
    )


FAULTS = {
    "raises": (raising, RuntimeError),
    "interrupt": (interrupted, Stop),
    "NaN": (not_a_number, keras_he.KerasHeError),
}


def state(model):
    """Returns all that `initialize` might touch: weights, and what the layers hold."""
    held = [
        (layer.name, sorted(vars(layer)), repr(vars(layer).get("kernel_initializer")))
        for layer in model._flatten_layers()
    ]
    return numbers(model), held, model.trainable


def assert_same(before, after):
    for one, other in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert before[1:] == after[1:]


def layers_that_run(model, batch):
    """Returns the layers that a forward pass calls, the recurrent ones' insides aside."""
    from keras_he.passes.forward import watched

    called = []
    found = [one for one in watched(model) if isinstance(one, layers.Layer)]

    def watch(layer, call):
        def hook(*args, **kwargs):
            called.append(layer)
            return call(*args, **kwargs)

        return hook

    for layer in found:
        vars(layer)["call"] = watch(layer, layer.call)
    with keras.StatelessScope():
        model(batch, training=True)
    for layer in found:
        del vars(layer)["call"]
    inputs = keras.layers.InputLayer
    return [layer for layer in dict.fromkeys(called) if not isinstance(layer, inputs)]


@pytest.mark.quick(3)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_fault_at_any_layer_leaves_the_model_as_it_was(network, fault):
    keras.utils.set_random_seed(0)
    model = NETWORKS[network]()
    batch = batch_for(model, 8)
    break_it, error = FAULTS[fault]
    running = layers_that_run(model, batch)
    assert len(running) > 2
    for layer in running:
        before = state(model)
        vars(layer)["call"] = break_it(layer.call)
        with pytest.raises(error):
            keras_he.initialize(model, batch, seed=1)
        del vars(layer)["call"]
        assert_same(before, state(model))


class Squared(layers.Dense):
    """Not linear in its kernel, and with the activation in its usual place."""

    def call(self, x):
        return self.activation(keras.ops.matmul(x, self.kernel**2))


class Squashed(layers.Dense):
    """Not linear in its kernel, by what comes behind."""

    def call(self, x):
        return keras.ops.tanh(keras.ops.matmul(x, self.kernel))


@pytest.mark.parametrize("position", range(3))
def test_a_layer_that_is_not_linear_in_its_kernel_is_solved(position):
    kinds = [layers.Dense] * 3
    kinds[position] = Squared
    model = keras.Sequential(
        [keras.Input((16,)), *(kind(64, name=f"d{n}") for n, kind in enumerate(kinds))]
    )
    batch = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    report = keras_he.initialize(model, batch, seed=1)
    report.check()
    outputs = batch
    for layer in model.layers:
        outputs = keras.ops.convert_to_numpy(layer(outputs))
        assert np.mean(outputs**2) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("position", range(3))
def test_a_layer_that_cannot_reach_its_target_is_told_first(position):
    kinds = [layers.Dense] * 3
    kinds[position] = Squashed
    model = keras.Sequential(
        [keras.Input((16,)), *(kind(64, name=f"d{n}") for n, kind in enumerate(kinds))]
    )
    report = keras_he.initialize(model, seed=1)
    # tanh of a standard normal number has the second moment 0.394.
    assert report.rows[2 * position].moments[0] == pytest.approx(0.394, rel=0.1)
    assert f"the signal is not kept at 1 of them, most at d{position}/kernel" in " ".join(
        str(report).split("kernel ")[0].split()
    )
    with pytest.raises(keras_he.KerasHeError, match="forward spread"):
        report.check()


@pytest.mark.parametrize("position", range(6))
def test_an_interrupt_while_weights_are_written_takes_them_all_back(position, monkeypatch):
    model = architectures.dense_chain("relu", depth=2, width=8)
    before = state(model)
    assigned = []
    cls = type(model.variables[0])
    original = cls.assign

    def assign(self, value):
        original(self, value)
        assigned.append(self)
        if len(assigned) == position + 1:
            raise Stop

    monkeypatch.setattr(cls, "assign", assign)
    with pytest.raises(Stop):
        keras_he.initialize(model, seed=1)
    monkeypatch.undo()
    assert_same(before, state(model))


def test_an_error_while_kernels_are_drawn_writes_nothing(monkeypatch):
    model = architectures.dense_chain("relu", depth=3, width=8)
    before = state(model)
    original, calls = writer.Plan.final, []

    def final(self, entry):
        calls.append(entry)
        if len(calls) == 4:
            raise MemoryError
        return original(self, entry)

    monkeypatch.setattr(writer.Plan, "final", final)
    with pytest.raises(MemoryError):
        keras_he.initialize(model, seed=1)
    assert_same(before, state(model))


def test_zeros_that_have_a_reason_are_no_fault():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    branch = layers.Conv2D(4, 3, padding="same")(layers.ReLU()(x))
    branch = layers.BatchNormalization(gamma_initializer="zeros")(branch)
    x = layers.Add()([x, branch])
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    report = keras_he.initialize(model, seed=1)
    report.check()
    assert "gamma 0 to 0" in str(report)


def test_a_scan_is_named():
    class Scanned(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(8)

        def build(self, shape):
            self.dense.build((None, shape[-1]))

        def call(self, x):
            steps = keras.ops.transpose(x, (1, 0, 2))
            return keras.ops.transpose(keras.ops.vectorized_map(self.dense, steps), (1, 0, 2))

    model = keras.Sequential([keras.Input((5, 8)), Scanned(), layers.Dense(2)])
    before = state(model)
    with pytest.raises(keras_he.KerasHeError, match="must be given values, not symbols"):
        keras_he.initialize(model, seed=1)
    assert_same(before, state(model))
    keras_he.initialize(model, seed=1, data=False)
