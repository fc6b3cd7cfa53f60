"""What the report says is measured: layers of several kernels, recurrent cells, sums in `call`."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_he

pytestmark = pytest.mark.quick(4)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def mean_square(value):
    return float(np.mean(np.square(ops.convert_to_numpy(value).astype("float64"))))


class Factored(layers.Layer):
    """`x @ down @ up`, with what stands between them, and around."""

    def __init__(self, inner=16, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def build(self, shape):
        glorot = "glorot_uniform"
        self.down = self.add_weight(shape=(shape[-1], self.inner), initializer=glorot, name="down")
        self.up = self.add_weight(shape=(self.inner, shape[-1]), initializer=glorot, name="up")

    def call(self, x):
        return x @ self.down @ self.up


class Rectified(Factored):
    def call(self, x):
        return ops.relu(x @ self.down) @ self.up


class Smooth(Factored):
    def call(self, x):
        return ops.silu(x @ self.down) @ self.up


class Residual(Factored):
    def call(self, x):
        return x + ops.relu(x @ self.down) @ self.up


class Experts(layers.Layer):
    """A dense mixture of experts: a softmax over gates, and one einsum over all experts."""

    def build(self, shape):
        size, glorot = shape[-1], "glorot_uniform"
        self.gate = self.add_weight(shape=(size, 4), initializer=glorot, name="gate")
        self.experts = self.add_weight(shape=(4, size, size), initializer=glorot, name="experts")

    def call(self, x):
        return ops.einsum("be,bd,edf->bf", ops.softmax(x @ self.gate), x, self.experts)


for cls in (Factored, Rectified, Smooth, Residual):
    keras_he.register_kernels(cls, lambda layer: {"down": {}, "up": {}})
keras_he.register_kernels(
    Experts, lambda layer: {"gate": {}, "experts": {"input_axes": (1,), "output_axes": (2,)}}
)


def chain(*parts, size=32):
    return keras.Sequential([keras.Input((size,)), *parts, layers.Dense(3)])


def outside(model, batch):
    """Returns the second moment of what each layer returns."""
    moments, value = [], batch
    for layer in model.layers:
        value = layer(value)
        moments.append(mean_square(value))
    return moments


@pytest.mark.parametrize("kind", [Factored, Rectified, Smooth, Experts])
@pytest.mark.parametrize("between", [None, "relu"])
def test_what_layers_of_several_kernels_return_is_kept(kind, between):
    parts = [kind() for _ in range(10)]
    if between:
        parts = [one for part in parts for one in (part, layers.Activation(between))]
    model, batch = chain(*parts), normal(64, 32)
    report = keras_he.initialize(model, batch, seed=1)
    report.check()
    moments = outside(model, batch)
    told = [row.moments[0] for row in report.kernels if row.moments]
    kept = [
        moment
        for layer, moment in zip(model.layers, moments, strict=True)
        if not isinstance(layer, layers.Activation)
    ]
    assert kept == pytest.approx([1.0] * 11, rel=0.1)
    assert told == pytest.approx(kept, rel=0.01)
    assert all(0.2 < row.gain < 5 for row in report.kernels)


def test_a_layer_that_adds_to_its_own_input_is_a_branch_of_a_trunk():
    model, batch = chain(*[Residual() for _ in range(8)]), normal(64, 32)
    report = keras_he.initialize(model, batch, seed=1)
    report.check()
    value = batch
    for layer in model.layers[:-1]:
        grown = ops.convert_to_numpy(layer(value))
        assert mean_square(grown - ops.convert_to_numpy(value)) == pytest.approx(1 / 8, rel=0.1)
        value = grown
    growth = math.log10(mean_square(value) / mean_square(model.layers[0](batch)))
    assert report.trunk_spread == pytest.approx(growth, abs=0.02)


def test_a_skipped_measurement_of_a_layer_makes_the_check_fail(monkeypatch):
    from keras_he.initialize_model import measure

    def unmeasured(self, call):
        for one in call.kernels:
            self._analytic(one, call.activation)
            self._place(one)
        return call.run()

    monkeypatch.setattr(measure.Measurement, "_joint_call", unmeasured)
    parts = [one for _ in range(10) for one in (Factored(), layers.ReLU())]
    report = keras_he.initialize(chain(*parts), normal(64, 32), seed=1)
    with pytest.raises(keras_he.KerasHeError, match="forward spread"):
        report.check()
    assert "the signal is not kept at" in " ".join(str(report).split("kernel ")[0].split())


class Scaled(layers.Layer):
    """Linear, without kernels: what a DropPath is in inference mode."""

    def call(self, x):
        return x * 1.0


class Halved(layers.Layer):
    """An activation without a name: its mean adds up."""

    def call(self, x):
        return ops.maximum(x, 0.0) * 1.0


@pytest.mark.parametrize(("end", "target"), [(Scaled, 1 / 8), (Halved, 1 / 64)])
def test_whether_a_layer_acts_as_an_activation_is_measured(end, target):
    x = inputs = keras.Input((64,))
    for _ in range(8):
        branch = layers.Dense(64)(layers.LayerNormalization()(x))
        x = layers.Add()([x, end()(branch)])
    report = keras_he.initialize(keras.Model(inputs, x), normal(64, 64), seed=1)
    assert {round(row.target, 9) for row in report.kernels} == {target}


class Block(layers.Layer):
    """A residual block as most are written today: a sum in `call`."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.norm, self.drop = layers.LayerNormalization(), layers.Dropout(0.1)
        self.first, self.second = layers.Dense(2 * size, "gelu"), layers.Dense(size)

    def build(self, shape):
        self.norm.build(shape)
        self.first.build(shape)
        self.second.build((*shape[:-1], 2 * shape[-1]))
        self.built = True

    def call(self, x):
        return x + self.drop(self.second(self.first(self.norm(x))))


def test_sums_in_the_call_of_a_layer_are_scaled_by_depth():
    model = chain(*[Block(32) for _ in range(8)])
    report = keras_he.initialize(model, normal(64, 32), seed=1)
    assert {round(row.target, 9) for row in report.kernels} == {1.0, 1 / 8}
    assert report.trunk_spread == pytest.approx(math.log10(2), abs=0.1)
    assert not [note for note in report.warnings if note.kind == "unseen-layers"]


def recurrent_moments(layer, batch, steps):
    """Returns the mean square of what the activations of an LSTM or GRU get, by NumPy."""
    kernel, recurrent, bias = (ops.convert_to_numpy(one) for one in layer.cell.weights)
    units, values = layer.cell.units, []
    state = carry = np.zeros((len(batch), units))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    for step in range(steps):
        gates = np.split(batch[:, step] @ kernel + state @ recurrent + bias, 4, axis=1)
        act = np.tanh if layer.cell.activation is keras.activations.tanh else lambda x: x * (x > 0)
        carry = sigmoid(gates[1]) * carry + sigmoid(gates[0]) * act(gates[2])
        state = sigmoid(gates[3]) * act(carry)
        values += [np.mean(one**2) for one in gates]
    return np.mean(values)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_an_lstm_is_measured_step_by_step(activation):
    model = keras.Sequential([keras.Input((20, 8)), layers.LSTM(32, activation), layers.Dense(2)])
    batch = normal(16, 20, 8)
    report = keras_he.initialize(model, batch, seed=1)
    report.check()
    (moment,) = (row.moments[0] for row in report.kernels if row.moments and "lstm" in row.path)
    assert moment == pytest.approx(recurrent_moments(model.layers[0], batch, 20), rel=0.01)
    assert moment == pytest.approx(1.0, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_stack_of_recurrent_layers_keeps_its_state_over_many_steps(activation):
    kinds = [layers.LSTM(16, activation, return_sequences=True) for _ in range(3)]
    model = keras.Sequential([keras.Input((100, 8)), *kinds, layers.Dense(2)])
    batch = normal(16, 100, 8)
    report = keras_he.initialize(model, batch, seed=1)
    states = outside(model, batch)[:-1]
    if report.forward_spread <= math.log10(1.5):
        assert max(states) / min(states) < 30
    else:
        with pytest.raises(keras_he.KerasHeError, match="forward spread"):
            report.check()
    assert min(states) > 1e-3
    assert max(states) < 10


class Minimal(layers.Layer):
    """A cell of the user's own, without an attribute for its activation."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.dense = layers.Dense(units)

    def build(self, shape):
        self.dense.build((*shape[:-1], shape[-1] + self.units))
        self.built = True

    def call(self, x, states):
        state = ops.tanh(self.dense(ops.concatenate([x, states[0]], axis=-1)))
        return state, [state]


def test_the_cell_of_a_user_is_measured():
    model = keras.Sequential([keras.Input((12, 8)), layers.RNN(Minimal(32)), layers.Dense(2)])
    report = keras_he.initialize(model, normal(32, 12, 8), seed=1)
    report.check()
    row = report.kernels[0]
    assert row.rule == "measured"
    assert row.moments == (pytest.approx(1.0, rel=0.1),)


def test_an_exploding_gradient_is_told_and_fails_the_check():
    sine = lambda x: ops.sin(30.0 * x)  # noqa: E731
    model = chain(*[layers.Dense(64, activation=sine) for _ in range(5)])
    report = keras_he.initialize(model, normal(64, 32), seed=1)
    (told,) = [note for note in report.warnings if note.kind == "gradient"]
    assert "the cause" in told
    with pytest.raises(keras_he.KerasHeError, match="gradient"):
        report.check()
    quiet = keras_he.initialize(model, normal(64, 32), seed=1, backward=False)
    assert quiet.gradient_spread is None
    assert "Gradient over depth: not measured." in str(quiet)


def test_a_gradient_of_zero_is_no_good_number():
    class Stopped(layers.Layer):
        def call(self, x):
            return ops.stop_gradient(x)

    model = chain(layers.Dense(16), layers.Dense(16), Stopped())
    report = keras_he.initialize(model, normal(64, 32), seed=1)
    assert "the gradient is zero at 2 of 3 kernels" in report.warnings
    with pytest.raises(keras_he.KerasHeError, match="zero at 2 of 3"):
        report.check()


def test_moving_statistics_of_few_samples_are_told():
    block = (layers.Dense, layers.BatchNormalization, layers.ReLU)
    parts = [kind(64) if kind is layers.Dense else kind() for _ in range(4) for kind in block]
    model = chain(*parts)
    few = keras_he.initialize(model, normal(4, 32), seed=1)
    many = keras_he.initialize(model, normal(512, 32), seed=1)
    kinds = [{note.kind for note in report.warnings} for report in (few, many)]
    assert ["statistics" in each for each in kinds] == [True, False]
    assert many.inference_spread == pytest.approx(0.0, abs=0.02)
    kept = keras.ops.convert_to_numpy(model.layers[1].moving_variance)
    seen = ops.convert_to_numpy(model.layers[0](normal(512, 32)[:256]))
    np.testing.assert_allclose(kept, seen.var(axis=0), rtol=0.01)


class Parts(layers.Layer):
    """Holds layers, and is never called itself: another layer calls its parts."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(32, "relu"), layers.Dense(32)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 32))
        self.built = True

    def call(self, x):
        raise NotImplementedError


class Using(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = Parts()

    def build(self, shape):
        self.parts.first.build(shape)
        self.parts.second.build((*shape[:-1], 32))
        self.built = True

    def call(self, x):
        return self.parts.second(self.parts.first(x))


def test_kernels_inside_a_layer_that_is_never_called_are_measured():
    model, batch = chain(Using(), layers.ReLU()), normal(64, 32)
    model(batch)
    report = keras_he.initialize(model, batch, seed=1)
    report.check()
    assert [row.rule for row in report.kernels] == ["measured"] * 3


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_without_measuring_activations_are_known_whatever_the_inputs_hold(dtype):
    inputs = keras.Input((8,), dtype=dtype)
    x = layers.Dense(16, "relu")(keras.ops.cast(inputs, "float32"))
    model = keras.Model(inputs, layers.Dense(2)(x))
    report = keras_he.initialize(model, data=False, seed=1)
    assert [row.gain for row in report.kernels] == [1.0, pytest.approx(math.sqrt(2))]


def test_without_measuring_a_model_that_hides_its_inputs_is_told():
    class Hidden(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.Dense(8, "relu"), layers.Dense(2)

        def call(self, x):
            return self.second(self.first(x))

    model = Hidden()
    model(normal(2, 8))
    report = keras_he.initialize(model, data=False, seed=1)
    assert "activations-unknown" in {note.kind for note in report.warnings}
    with pytest.raises(keras_he.KerasHeError, match="not reached"):
        report.check()
