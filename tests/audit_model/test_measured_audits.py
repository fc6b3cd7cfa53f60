"""An audit says what is measured: layers of the user's own, recurrent cells, zeros, spreads."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_he

pytestmark = pytest.mark.quick(6)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def mean_square(value):
    return float(np.mean(np.square(ops.convert_to_numpy(value).astype("float64"))))


def verdicts(report):
    return [finding.verdict for finding in report.findings]


class Pair(layers.Layer):
    """Two kernels of its own, one after the other, with what a subclass puts between them."""

    def __init__(self, initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.initializer = initializer

    def build(self, shape):
        size = shape[-1]
        self.down = self.add_weight(shape=(size, 16), initializer=self.initializer, name="down")
        self.up = self.add_weight(shape=(16, size), initializer=self.initializer, name="up")

    def call(self, x):
        return x @ self.down @ self.up


class Rectified(Pair):
    def call(self, x):
        return ops.relu(x @ self.down) @ self.up


class Added(Pair):
    def call(self, x):
        return x + ops.relu(x @ self.down) @ self.up


class Expecting(layers.Dense):
    """A `Dense` that applies an activation before its kernel."""

    def call(self, x):
        return super().call(ops.relu(x))


for cls in (Pair, Rectified, Added):
    keras_he.register_kernels(cls, lambda layer: {"down": {}, "up": {}})


def chain(*parts, size=32):
    return keras.Sequential([keras.Input((size,)), *parts, layers.Dense(3, name="last")])


def outside(model, batch):
    """Returns the second moment of what each layer returns."""
    moments, value = [], batch
    for layer in model.layers:
        value = layer(value)
        moments.append(mean_square(value))
    return moments


OWN = {
    "between kernels": lambda: [Rectified() for _ in range(20)],
    "low rank": lambda: [part for _ in range(12) for part in (Pair(), layers.ReLU())],
    "before a kernel": lambda: [Expecting(32, kernel_initializer="he_linear") for _ in range(15)],
}


@pytest.mark.parametrize("name", OWN)
def test_a_signal_that_own_layers_lose_is_found_and_restored(name):
    keras.utils.set_random_seed(1)
    model, batch = chain(*OWN[name]()), normal(64, 32)
    moments = outside(model, batch)
    assert min(moments) < 1e-3
    report = keras_he.audit(model, batch)
    # A later layer is no fault of its own: the signal that it gets is gone.
    assert [one for one in verdicts(report) if one != "vanishing"] == []
    signals = [one for one in report.findings if one.evidence.startswith("signal")]
    assert signals
    first = signals[0]
    lost = next(place for place, moment in enumerate(moments) if moment < 1e-3)
    kernels = [place for place, one in enumerate(model.layers) if one.weights]
    named = model.layers.index(model.get_layer(first.layer))
    assert named in kernels
    assert abs(named - lost) <= 2
    exec(first.remedy, {"keras_he": keras_he, "model": model, "data": batch})
    assert keras_he.audit(model, batch).findings == ()


@pytest.mark.parametrize("kind", [Pair, Rectified])
def test_what_a_layer_of_several_kernels_returns_is_its_figure(kind):
    keras.utils.set_random_seed(1)
    model, batch = chain(*[kind() for _ in range(4)]), normal(64, 32)
    report = keras_he.audit(model, batch)
    told = [row.moments[0] for row in report.kernels if row.moments]
    moments = outside(model, batch)
    assert told == pytest.approx(moments, rel=1e-4)
    assert report.forward_spread == pytest.approx(math.log10(max(moments) / min(moments)), rel=1e-4)
    assert "9 of 9 kernels checked" in str(report)


def test_what_a_layer_adds_to_its_own_input_is_its_figure():
    keras.utils.set_random_seed(1)
    model, batch = chain(*[Added() for _ in range(6)]), normal(64, 32)
    keras_he.initialize(model, batch, seed=1)
    report = keras_he.audit(model, batch)
    assert report.findings == ()
    value = batch
    for layer, row in zip(model.layers[:-1], report.kernels[1::2], strict=False):
        grown = ops.convert_to_numpy(layer(value))
        assert row.moments[0] == pytest.approx(mean_square(grown - value), rel=1e-3)
        assert row.target == pytest.approx(1 / 6)
        value = grown


def test_a_layer_that_is_called_again_is_the_same_layer():
    keras.utils.set_random_seed(1)
    inputs, shared = keras.Input((32,)), Added()
    model = keras.Model(inputs, layers.Dense(3)(shared(shared(shared(inputs)))))
    batch = normal(64, 32)
    (row,) = (row for row in keras_he.audit(model, batch).kernels if row.moments[1:])
    value, expected = batch, []
    for _ in range(3):
        grown = ops.convert_to_numpy(shared(value))
        expected.append(mean_square(grown - value))
        value = grown
    assert row.moments == pytest.approx(expected, rel=1e-3)


def test_right_kernels_of_an_own_layer_are_not_accused():
    keras.utils.set_random_seed(1)
    right = [Expecting(256, kernel_initializer="he_relu") for _ in range(6)]
    model = chain(layers.Dense(256), *right, size=256)
    batch = normal(64, 256)
    moments = outside(model, batch)[1:-1]
    assert max(moments) / min(moments) < 1.5
    assert keras_he.audit(model, batch).findings == ()


class Plain(layers.Dense):
    """A `Dense` of the user's own that does what its parent does."""


@pytest.mark.parametrize(
    ("kind", "initializer", "size", "told"),
    [
        (layers.Dense, "he_linear", 0.394, True),
        (Plain, "he_linear", 0.394, True),
        # It rectifies tanh, which leaves 0.197; its gain of 1.41 is no better with 1.59.
        (Expecting, "he_relu", 0.394, False),
        (Expecting, keras_he.KaimingNormal("tanh", seed=1), 0.5, False),
    ],
)
def test_a_wrong_gain_is_told_of_an_own_layer_where_the_signal_shows_it(
    kind, initializer, size, told
):
    keras.utils.set_random_seed(1)
    planted = kind(256, kernel_initializer=initializer, name="planted")
    first = layers.Dense(256, "tanh", kernel_initializer="he_linear")
    model = keras.Sequential([keras.Input((256,)), first, planted, layers.Dense(3)])
    assert outside(model, normal(64, 256))[1] == pytest.approx(size, rel=0.15)
    findings = keras_he.audit(model, normal(64, 256)).findings
    assert [one.layer for one in findings if one.verdict == "wrong-gain"] == ["planted"] * told


def gates(layer, batch):
    """Returns the mean square of what the gates of an LSTM get at each step, by NumPy."""
    kernel, recurrent, bias = (ops.convert_to_numpy(one) for one in layer.cell.weights)
    state = carry = np.zeros((len(batch), layer.cell.units))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    values = []
    for step in range(batch.shape[1]):
        parts = np.split(batch[:, step] @ kernel + state @ recurrent + bias, 4, axis=1)
        carry = sigmoid(parts[1]) * carry + sigmoid(parts[0]) * np.tanh(parts[2])
        state = sigmoid(parts[3]) * np.tanh(carry)
        values += [np.mean(one**2) for one in parts]
    return np.mean(values)


def test_the_figure_of_a_cell_is_that_of_its_gates():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((12, 8)), layers.LSTM(16), layers.Dense(2)])
    batch = normal(16, 12, 8)
    report = keras_he.audit(model, batch)
    (moment,) = (row.moments[0] for row in report.kernels if row.moments and "lstm" in row.path)
    assert moment == pytest.approx(gates(model.layers[0], batch), rel=1e-4)
    assert "3 of 3 kernels checked" in str(report)
    assert all(row.figures.gradient for row in report.kernels if row.moments)


STATES = {
    "exploding": {"recurrent_initializer": keras.initializers.Orthogonal(3.0, seed=1)},
    "vanishing": {"kernel_initializer": keras.initializers.RandomNormal(stddev=1e-4, seed=1)},
}


@pytest.mark.parametrize("verdict", STATES)
def test_a_state_that_explodes_or_vanishes_is_found_until_it_is_set(verdict):
    recurrent = layers.SimpleRNN(32, "relu", name="planted", **STATES[verdict])
    model = keras.Sequential([keras.Input((64, 8)), recurrent, layers.Dense(2)])
    batch = normal(16, 64, 8)
    state = mean_square(recurrent(batch))
    assert state > 1e3 if verdict == "exploding" else state < 1e-3
    found = keras_he.audit(model, batch).findings
    assert (verdict, "planted") in {(one.verdict, one.layer) for one in found}
    keras_he.initialize(model, batch, seed=1)
    assert 1e-3 < mean_square(recurrent(batch)) < 1e3
    assert keras_he.audit(model, batch).findings == ()


def behind_a_gate():
    inputs = keras.Input((64,))
    closed = keras.initializers.Constant(-5.0)
    x = layers.Dense(64, "relu")(inputs)
    gate = layers.Dense(64, "sigmoid", kernel_initializer="zeros", bias_initializer=closed)(inputs)
    x = layers.Multiply()([layers.Multiply()([x, gate]), gate])
    x = layers.Dense(64, name="lost")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.LayerNormalization(epsilon=1e-12)(x)))


def in_a_branch():
    inputs = keras.Input((64,))
    small = keras.initializers.RandomNormal(stddev=3e-4, seed=1)
    x = layers.Dense(64)(inputs)
    for place in range(4):
        branch = layers.LayerNormalization()(x)
        query = layers.Dense(64, name=f"query_{place}")(branch)
        value = layers.Dense(
            64, name=f"value_{place}", kernel_initializer=small if place == 2 else "he_linear"
        )(layers.Multiply()([branch, query]))
        x = layers.Add()([x, value])
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("build", [behind_a_gate, in_a_branch])
def test_more_than_three_decades_are_never_without_a_finding(build):
    keras.utils.set_random_seed(1)
    model, batch = build(), normal(64, 64)
    report = keras_he.audit(model, batch, backward=False)
    assert report.forward_spread > 3
    assert "vanishing" in verdicts(report)
    told = next(one for one in report.findings if one.verdict == "vanishing")
    smallest = min((row for row in report.kernels if row.moment), key=lambda row: row.moment)
    assert told.layer == smallest.path.rpartition("/")[0]


def test_numbers_of_tokens_are_no_signal_in_any_dtype():
    reports = []
    for dtype in ("int32", "float32"):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((20,), dtype=dtype)
        x = layers.Embedding(60000, 32, name="table")(inputs)
        x = layers.Dense(32, "relu", name="first")(x)
        model = keras.Model(inputs, layers.Dense(2, name="second")(x))
        tokens = np.random.default_rng(0).integers(0, 60000, (16, 20)).astype(dtype)
        reports.append(keras_he.audit(model, tokens))
    assert reports[0].findings == reports[1].findings == ()
    moments = [[row.moments for row in one.kernels] for one in reports]
    assert moments[0] == moments[1]
    assert reports[1].end_to_end is None


def test_a_normalization_over_one_value_is_found():
    inputs = x = keras.Input((24, 1))
    for place in range(2):
        y = layers.LayerNormalization(name=f"norm_{place}")(x)
        x = layers.Add()([x, layers.Conv1D(1, 3, padding="same")(y)])
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    batch = normal(16, 24, 1)
    assert mean_square(layers.LayerNormalization()(batch)) == 0.0
    (finding,) = keras_he.audit(model, batch).findings
    assert (finding.verdict, finding.layer) == ("vanishing", "norm_0")
    assert "normalizes over one value" in finding.evidence
    assert len(finding.paths) == 2


class First(layers.Layer):
    """A router that sends every token to the first of its experts."""

    def call(self, x):
        return x * 1.0, x * 0.0


def test_an_expert_that_gets_nothing_is_no_finding():
    inputs = keras.Input((32,))
    one, none = First()(layers.Dense(32)(inputs))
    x = layers.Add()([layers.Dense(32)(one), layers.Dense(32, name="idle")(none)])
    report = keras_he.audit(keras.Model(inputs, layers.Dense(3)(x)), normal(64, 32))
    assert next(row for row in report.kernels if "idle" in row.path).moment == 0.0
    assert report.findings == ()


class Stopped(layers.Layer):
    def call(self, x):
        return ops.stop_gradient(x)


class Scaled(layers.Layer):
    """A layer scale that starts at zero."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="zeros", name="factor")

    def call(self, x):
        return x * self.factor


keras_he.register_kernels(Scaled, lambda layer: {})


def test_a_gradient_of_exactly_zero_is_one_finding():
    model = chain(layers.Dense(16), layers.Dense(16, name="before"), Stopped(), layers.Dense(16))
    report = keras_he.audit(model, normal(64, 32))
    (finding,) = report.findings
    assert (finding.verdict, finding.layer) == ("vanishing", "before")
    assert "exactly 0 at 2 of 4" in finding.evidence
    assert len(finding.paths) == 2


@pytest.mark.parametrize("stopped", [False, True])
def test_a_gradient_of_zero_by_design_is_a_note(stopped):
    x = inputs = keras.Input((32,))
    for _ in range(2):
        x = layers.Add()([x, Scaled()(layers.Dense(32)(layers.Dense(32, "relu")(x)))])
    first = layers.Dense(32, name="cut")(x)
    outputs = layers.Dense(3)(Stopped()(first) if stopped else first)
    report = keras_he.audit(keras.Model(inputs, outputs), normal(64, 32))
    # Other factors than zeros bring the gradient back, but not past `stop_gradient`.
    kinds = [note.kind for note in report.warnings]
    assert kinds == ([] if stopped else ["zero-by-design"])
    assert verdicts(report) == (["vanishing"] if stopped else [])


@pytest.mark.parametrize("dead", ["a bias", "no bias"])
def test_dead_units_are_the_cause_of_a_zero_gradient(dead):
    bias = keras.initializers.Constant(-20.0) if dead == "a bias" else "zeros"
    model = chain(layers.Dense(32, "relu", bias_initializer=bias, name="dead"), layers.Dense(8))
    if dead == "no bias":
        model.layers[0].kernel.assign(-np.abs(normal(32, 32)))
    report = keras_he.audit(model, np.abs(normal(64, 32)))
    (finding,) = [one for one in report.findings if one.evidence.startswith("gradient: it is ex")]
    assert finding.layer == "dead"
    assert "dead" in finding.evidence
    other = next(one for one in report.findings if one.verdict == "dead")
    assert other.remedy == finding.remedy


def std_of(remedy, kernel):
    """Returns the standard deviation of 200,000 values that a remedy's initializer draws."""
    (made,) = eval(f"dict({remedy})", {"keras_he": keras_he}).values()
    initializer = keras_he.get(made) if isinstance(made, str) else made
    copies = -(-200_000 // int(np.prod(kernel.shape)))
    config = initializer.get_config()
    drawn = [
        type(initializer).from_config({**config, "seed": seed})(kernel.shape)
        for seed in range(min(copies, 60))
    ]
    return float(np.std(np.stack([ops.convert_to_numpy(one) for one in drawn])))


def convolution(kind, initializer, first=False, width=64):
    """Returns a model with a planted layer, first or behind a rectifier."""
    argument = "depthwise_initializer" if kind is layers.DepthwiseConv2D else "kernel_initializer"
    given = {argument: initializer, "name": "planted", "padding": "same"}
    planted = kind(3, **given) if argument.startswith("d") else kind(width, 4, strides=2, **given)
    before = (
        [] if first else [layers.Conv2D(width, 1, kernel_initializer="he_linear"), layers.ReLU()]
    )
    parts = [keras.Input((8, 8, width)), *before, planted, layers.ReLU(), layers.Conv2D(4, 1)]
    return keras.Sequential(parts)


def before_a_sum():
    x = inputs = keras.Input((64,))
    for place in range(4):
        y = layers.Dense(64, "relu", kernel_initializer="he_linear")(layers.LayerNormalization()(x))
        wrong = "he_tanh" if place == 1 else "he_relu"
        name = "planted" if place == 1 else f"branch_{place}"
        x = layers.Add()([x, layers.Dense(64, kernel_initializer=wrong, name=name)(y)])
    return keras.Model(inputs, layers.Dense(3)(x))


def of_zeros():
    model = chain(layers.Dense(64, "gelu"), layers.Dense(64, "relu", name="planted"), size=64)
    model.layers[1].kernel.assign(np.zeros((64, 64)))
    return model


TOLD = {
    "depthwise, first": lambda: convolution(layers.DepthwiseConv2D, "he_normal", first=True),
    "depthwise": lambda: convolution(layers.DepthwiseConv2D, "he_uniform"),
    "depthwise, glorot": lambda: convolution(layers.DepthwiseConv2D, "glorot_uniform"),
    "transposed": lambda: convolution(layers.Conv2DTranspose, "he_normal"),
    "transposed, first": lambda: convolution(layers.Conv2DTranspose, "lecun_normal", first=True),
    "before a sum": before_a_sum,
    "of zeros": of_zeros,
    "gain": lambda: chain(
        layers.Dense(64, "gelu"), layers.Dense(64, kernel_initializer="he_relu", name="planted")
    ),
    "slope": lambda: chain(
        layers.Dense(64),
        layers.LeakyReLU(0.4),
        layers.Dense(64, kernel_initializer="he_leaky_relu", name="planted"),
    ),
    "fan out": lambda: chain(
        layers.Dense(64, "relu"),
        layers.Dense(64, "tanh", kernel_initializer="he_relu_fan_out", name="planted"),
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_remedy_gives_the_standard_deviation_of_the_table(name):
    keras.utils.set_random_seed(1)
    model = TOLD[name]()
    report = keras_he.audit(model)
    findings = [one for one in report.findings if "_initializer=" in one.remedy]
    assert "planted" in {one.layer for one in findings}
    rows = {row.path: row for row in report.kernels}
    for finding in findings:
        kernel = getattr(model.get_layer(finding.layer), "kernel")  # noqa: B009
        wanted = rows[finding.paths[0]].std
        # Truncated and normal draws of 200,000 values: 1 % is six standard errors of their std.
        assert std_of(finding.remedy, kernel) == pytest.approx(wanted, rel=0.02)


def test_the_first_kernel_gets_the_data_as_it_is():
    report = keras_he.audit(TOLD["depthwise, first"]())
    (finding,) = report.findings
    assert finding.remedy == 'depthwise_initializer="he_linear_depthwise"'
    assert report.kernels[0].std == pytest.approx(1 / 3)  # nine inputs of size 1


def steep_sine(x):
    return ops.sin(30.0 * x)


def steep_tanh(x):
    return ops.tanh(5.0 * x)


@pytest.mark.parametrize("activation", [steep_sine, steep_tanh, "exponential"])
def test_no_finding_tells_to_do_again_what_was_just_done(activation):
    keras.utils.set_random_seed(1)
    model = chain(*[layers.Dense(64, activation) for _ in range(8)])
    batch = normal(64, 32)
    keras_he.initialize(model, batch, seed=1)
    report = keras_he.audit(model, batch)
    assert report.findings
    assert not [one for one in report.findings if "keras_he.initialize" in one.remedy]
    if activation is steep_sine:
        (finding,) = report.findings
        assert finding.remedy == 'activation="relu"'
        for layer in model.layers[:-1]:  # what the remedy says, of all of them
            layer.activation = keras.activations.relu
        keras_he.initialize(model, batch, seed=1)
        assert keras_he.audit(model, batch).findings == ()


def test_a_kernel_that_was_changed_since_is_set_again():
    keras.utils.set_random_seed(1)
    model, batch = chain(*[layers.Dense(64, "relu") for _ in range(4)]), normal(64, 32)
    keras_he.initialize(model, batch, seed=1)
    model.layers[2].kernel.assign(model.layers[2].kernel * 1e-3)
    findings = keras_he.audit(model, batch).findings
    assert {one.remedy for one in findings} == {"keras_he.initialize(model, data)"}


class Tokens(layers.Layer):
    """Appends a class token and registers, and adds positions, as a vision transformer does."""

    def build(self, shape):
        _, count, size = shape
        self.cls = self.add_weight(shape=(1, 1, size), initializer="normal", name="cls")
        self.registers = self.add_weight(shape=(1, 4, size), initializer="normal", name="reg")
        self.places = self.add_weight(shape=(count + 1, size), initializer="normal", name="pos")

    def call(self, x):
        first, registers = (
            ops.repeat(one, ops.shape(x)[0], axis=0) for one in (self.cls, self.registers)
        )
        x = ops.concatenate([first, x], axis=1) + self.places
        return ops.concatenate([x, registers], axis=1)


class Mixing(layers.Layer):
    """A kernel of the shape of a table."""

    def build(self, shape):
        size = shape[-1]
        self.mixed = self.add_weight(shape=(1, size, size), initializer="normal", name="mixed")

    def call(self, x):
        return x @ self.mixed[0]


@pytest.mark.parametrize("read", [keras_he.audit, keras_he.initialize])
@pytest.mark.parametrize(("kind", "role"), [(Tokens, "other"), (Mixing, "unknown")])
def test_tokens_and_positions_are_no_kernels(kind, role, read):
    inputs = keras.Input((6, 16))
    x = kind(name="tokens")(layers.Dense(16)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    before = {one.path: np.array(ops.convert_to_numpy(one)) for one in model.variables}
    report = read(model, normal(8, 6, 16))
    assert {row.role for row in report.rows if row.path.startswith("tokens")} == {role}
    for one in model.variables:
        if read is keras_he.audit or "tokens" in one.path:
            np.testing.assert_array_equal(before[one.path], ops.convert_to_numpy(one.value))
    if role == "other":
        report.check()
    elif read is keras_he.initialize:
        with pytest.raises(keras_he.KerasHeError, match="tokens/mixed was not set"):
            report.check()
