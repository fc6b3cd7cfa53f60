"""The audit: faults that are planted are found and mended, sound models are not accused, and the
figures are those of independent computations."""

import json
import math
from inspect import signature

import architectures
import autodiff
import keras
import numpy as np
import plants
import pytest
import signals
from architectures import batch_for
from keras import layers

import keras_he

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def verdicts(report):
    return {finding.verdict for finding in report.findings}


def accused(report):
    """Returns the findings, but of the fans of attention, which Keras miscounts before 3.15."""
    if "input_axes" in signature(keras.initializers.VarianceScaling).parameters:
        return report.findings
    return tuple(
        finding
        for finding in report.findings
        if finding.verdict != "wrong-fan" or "attention" not in finding.layer
    )


def hits(report, plant):
    """Returns the findings of the planted verdict at the planted layers."""
    return [
        finding
        for finding in report.findings
        if finding.verdict == plant.verdict and finding.layer.rpartition("/")[2] in plant.layers
    ]


def first_of_each_kind():
    """Returns the plants that stand for their kind where a network takes seconds to compile."""
    kinds: dict[str, str] = {}
    for name in plants.PLANTS:
        kinds.setdefault(name.partition(",")[0], name)
    return list(kinds.values())


@pytest.mark.quick(10)
@pytest.mark.parametrize("name", plants.PLANTS if ON_TENSORFLOW else first_of_each_kind())
def test_a_planted_fault_is_found_and_its_remedy_clears_it(name):
    plant = plants.PLANTS[name]()
    found = hits(keras_he.audit(plant.model), plant)
    assert found
    model = plant.model
    for finding in found:
        assert finding.evidence
        model = plants.mended(model, finding)
    assert not hits(keras_he.audit(model), plant)


def text(recurrent):
    inputs = keras.Input((20,), dtype="int32")
    x = layers.Embedding(100, 32)(inputs)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(recurrent(x)))


def digits():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )


# As Keras makes them, and as people use them.
USUAL = {
    "LSTM": lambda: text(layers.LSTM(32)),
    "GRU": lambda: text(layers.GRU(32)),
    "two directions": lambda: text(layers.Bidirectional(layers.LSTM(16))),
    "simple": lambda: text(layers.SimpleRNN(32)),
    "digits": digits,
    "pre-norm": lambda: architectures.transformer(4),
    "post-norm": lambda: architectures.transformer(4, "post"),
    "residual": lambda: architectures.residual_blocks(3),
    "dense": lambda: architectures.dense_chain("relu", depth=4, width=64),
    "nested": architectures.nested,
}


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", USUAL)
def test_a_usual_model_is_not_accused(name):
    keras.utils.set_random_seed(5)
    model = USUAL[name]()
    assert accused(keras_he.audit(model)) == ()
    keras_he.initialize(model, seed=1)
    assert keras_he.audit(model).findings == ()


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", architectures.SMALL)
def test_an_initialized_model_is_not_accused(name):
    model = architectures.SMALL[name]()
    keras_he.initialize(model, batch_for(model), seed=1)
    report = keras_he.audit(model, batch_for(model, seed=2))
    assert report.findings == ()
    report.check()


def unet_of_he_normal():
    he = {"kernel_initializer": "he_normal", "activation": "relu", "padding": "same"}
    inputs = keras.Input((16, 16, 3))
    first = layers.Conv2D(16, 3, **he)(inputs)
    second = layers.Conv2D(16, 3, **he)(layers.Conv2D(16, 3, **he)(first))
    joined = layers.Concatenate()([first, second])
    return keras.Model(inputs, layers.Conv2D(8, 3, **he)(joined))


@keras.saving.register_keras_serializable("tests")
class Gate(layers.Layer):
    """An activation of one's own."""

    def call(self, x):
        return keras.ops.maximum(x, 0.0)


def own_activation():
    inputs = keras.Input((32,))
    x = Gate()(layers.Dense(64)(inputs))
    x = keras.ops.relu(layers.Dense(64, kernel_initializer="he_relu")(x))
    return keras.Model(inputs, layers.Dense(64, kernel_initializer="he_relu")(x))


def masked_attention():
    inputs, mask = keras.Input((8, 8)), keras.Input((8, 8))
    scores = keras.ops.where(mask > 1.5, -math.inf, layers.Dense(8)(inputs))
    return keras.Model([inputs, mask], layers.Softmax()(scores))


def followed():
    """Returns a student and its frozen teacher, a copy."""
    student = architectures.dense_chain("relu", depth=2, width=16)
    teacher = architectures.dense_chain("relu", depth=2, width=16)
    teacher.set_weights(student.get_weights())
    teacher.trainable = False
    inputs = keras.Input((16,))
    return keras.Model(inputs, [student(inputs), teacher(inputs)])


def identities():
    inputs = keras.Input((6, 16))
    options = {"activation": "relu", "recurrent_initializer": "identity", "return_sequences": True}
    x = layers.SimpleRNN(16, **options)(layers.SimpleRNN(16, **options)(inputs))
    return keras.Model(inputs, layers.Dense(2)(x))


def frozen_blur():
    inputs = keras.Input((12, 12, 3))
    blur = layers.DepthwiseConv2D(3, depthwise_initializer="ones", trainable=False)
    return keras.Model(inputs, layers.Conv2D(4, 3)(blur(inputs)))


def rare_objects():
    inputs = keras.Input((12, 12, 8))
    x = layers.Conv2D(16, 3, activation="relu")(inputs)
    prior = keras.initializers.Constant(-4.6)
    return keras.Model(inputs, layers.Conv2D(9, 3, activation="sigmoid", bias_initializer=prior)(x))


def behind_states():
    inputs = keras.Input((12, 8))
    x = layers.Dense(32, activation="relu", kernel_initializer="he_normal")(layers.LSTM(16)(inputs))
    return keras.Model(inputs, layers.Dense(2, kernel_initializer="he_normal")(x))


def patches():
    inputs = keras.Input((32, 32, 3))
    x = layers.Reshape((64, 32))(layers.Conv2D(32, 4, 4)(inputs))
    for _ in range(4):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 16)(y, y)])
        y = layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(32)(y)])
    return keras.Model(inputs, layers.Dense(5)(layers.LayerNormalization()(x[:, 0])))


MEANT = {
    "joined rectifiers": unet_of_he_normal,
    "own activation": own_activation,
    "mask of infinities": masked_attention,
    "teacher": followed,
    "identities": identities,
    "frozen blur": frozen_blur,
    "rare objects": rare_objects,
    "behind states": behind_states,
    "patches": patches,
}


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", MEANT)
def test_what_is_meant_so_is_not_accused(name):
    keras.utils.set_random_seed(5)
    assert accused(keras_he.audit(MEANT[name]())) == ()


def test_a_trained_output_is_not_accused_of_its_size_and_what_is_lost_is_told():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype("float32")
    inputs = keras.Input((8,))
    hidden = layers.Dense(32, activation="relu")(inputs)
    sure = layers.Dense(1, activation="sigmoid")(hidden)
    large = layers.Dense(1)(hidden)
    model = keras.Model(inputs, [sure, large])
    model.compile(keras.optimizers.Adam(0.1), ["binary_crossentropy", "mse"])
    model.fit(x, [(x[:, :1] > 0) * 1.0, 150 + 50 * x[:, :1]], epochs=30, verbose=0)
    report = keras_he.audit(model, x)
    assert report.findings == ()
    assert "trained" in {note.kind for note in report.warnings}


@pytest.mark.parametrize("change", ["quantize", "lora"])
def test_what_is_not_looked_at_is_told(change):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(64, "relu"), layers.Dense(2)])
    if change == "quantize":
        for layer in model.layers:
            layer.quantize("int8")
    else:
        for layer in model.layers:
            layer.enable_lora(4)
    report = keras_he.audit(model)
    assert report.findings == ()
    assert [note.kind for note in report.warnings] == ["not-audited"]


def test_a_model_without_kernels_has_no_findings():
    model = keras.Sequential([keras.Input((8,)), layers.ReLU(), layers.BatchNormalization()])
    report = keras_he.audit(model)
    assert report.kernels == report.findings == ()
    assert "nothing could be checked" in str(report)


def test_targets_that_are_no_numbers_are_found():
    model, batch, targets = tanh_net()
    targets[3] = np.nan
    (finding,) = keras_he.audit(model, (batch, targets), loss="mse").findings
    assert (finding.verdict, finding.layer) == ("nonfinite", "the input")


def test_a_batch_with_holes_is_found_and_its_remedy_fills_them():
    model, batch, _ = tanh_net()
    batch[2, 1] = np.inf
    (finding,) = keras_he.audit(model, batch).findings
    scope = {"keras": keras, "data": batch}
    exec(finding.remedy, scope)
    assert keras_he.audit(model, scope["data"]).findings == ()


def test_a_gradient_that_is_no_number_is_found_where_it_begins():
    inputs = keras.Input((8,))
    x = layers.Dense(8, name="before")(inputs)
    x = keras.ops.where(x > -9.0, x, x / keras.ops.zeros_like(x))  # a guard, in vain
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert [(one.verdict, one.layer) for one in keras_he.audit(model).findings] == [
        ("nonfinite", "before")
    ]


def test_a_frozen_kernel_gets_a_line_that_reaches_it():
    plant = plants.scaled("dense", 3, 1e-3, "vanishing")
    plant.model.get_layer(plant.layers[0]).trainable = False
    (finding,) = keras_he.audit(plant.model).findings
    assert finding.remedy == 'kernel_initializer="he_relu"'


def test_the_remedy_of_a_pair_takes_the_inputs():
    keras.utils.set_random_seed(0)
    model = architectures.dense_chain("relu", depth=30, width=16)
    x, y = np.ones((8, 16), "float32"), np.ones((8, 10), "float32")
    report = keras_he.audit(model, (x, y), loss="mse")
    assert {one.remedy for one in report.findings} == {"keras_he.initialize(model, data[0])"}


FAMILIES = (*architectures.APPLICATIONS, "InceptionV3", "InceptionResNetV2", "ConvNeXtTiny")


@pytest.mark.slow
@pytest.mark.skipif(
    not ON_TENSORFLOW or keras.__version__.startswith("3.12."),
    reason="minutes elsewhere, of the same figures",
)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_of_applications_is_not_accused(name):
    options = {"weights": None, "input_shape": (75, 75, 3)}
    model = (
        architectures.application(name)
        if name in architectures.APPLICATIONS
        else getattr(keras.applications, name)(**options)
    )
    keras_he.initialize(model, seed=1)
    assert keras_he.audit(model).findings == ()


def test_keras_default_of_a_deep_chain_is_accused():
    keras.utils.set_random_seed(0)
    report = keras_he.audit(architectures.dense_chain("relu", depth=40))
    assert verdicts(report) == {"vanishing"}
    signal, gradient = report.findings
    assert signal.evidence.startswith("signal: ")
    assert gradient.evidence.startswith("gradient: ")
    with pytest.raises(keras_he.KerasHeError, match="vanishing: dense_"):
        report.check()


def test_the_first_layer_where_the_signal_is_gone_is_named():
    keras.utils.set_random_seed(0)
    model = architectures.dense_chain("relu", depth=40)
    report = keras_he.audit(model)
    rows = [row for row in report.kernels if row.moments[0] < 1e-3]
    assert report.findings[0].layer == rows[0].path.removesuffix("/kernel")
    assert rows[0].moments[0] > 1e-4


def tanh_net():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(7, activation="tanh", bias_initializer="normal"),
            layers.Dense(6, activation="tanh", bias_initializer="normal"),
            layers.Dense(2),
        ]
    )
    rng = np.random.default_rng(4)
    batch = rng.normal(size=(12, 5)).astype("float32")
    return model, batch, rng.normal(size=(12, 2)).astype("float32")


def test_the_figures_are_those_of_backpropagation_by_hand():
    model, batch, targets = tanh_net()
    report = keras_he.audit(model, (batch, targets), loss="mse")
    weights = [np.float64(one) for one in model.get_weights()]
    (w1, b1, w2, b2, w3, b3), x = weights, np.float64(batch)
    y1 = x @ w1 + b1
    y2 = np.tanh(y1) @ w2 + b2
    y3 = np.tanh(y2) @ w3 + b3
    d3 = 2.0 * (y3 - targets) / targets.size
    d2 = (d3 @ w3.T) * (1 - np.tanh(y2) ** 2)
    d1 = (d2 @ w2.T) * (1 - np.tanh(y1) ** 2)
    gradients = [x.T @ d1, np.tanh(y1).T @ d2, np.tanh(y2).T @ d3]
    kernels = (w1, w2, w3)
    for row, y, d, g, w in zip(
        report.kernels, (y1, y2, y3), (d1, d2, d3), gradients, kernels, strict=True
    ):
        figures = row.figures
        told = [row.moments[0], figures.mean, figures.gradient, figures.kernel_gradient]
        told += [figures.std, figures.update_ratio]
        square = lambda one: np.mean(np.square(one))  # noqa: E731
        expected = [square(y), np.mean(y), square(d), square(g), math.sqrt(square(w))]
        expected += [math.sqrt(square(g) / square(w))]
        assert told == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert report.end_to_end == pytest.approx(np.mean(y3**2) / np.mean(x**2), rel=1e-5)
    spread = [np.mean(np.square(one)) for one in (d1, d2, d3)]
    assert report.gradient_spread == pytest.approx(math.log10(max(spread) / min(spread)), rel=1e-4)


def mixed():
    """Returns many kinds of layers, one of them shared, and a model in it."""
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, padding="same", activation="gelu")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.SeparableConv2D(8, 3, padding="same", activation="relu")(x)
    shared = layers.Conv2D(8, 1, name="shared")
    x = layers.Add()([shared(shared(x)), x])
    x = layers.Reshape((64, 8))(x)
    x = layers.MultiHeadAttention(2, 4)(x, x)
    inner = keras.Sequential([keras.Input((64, 8)), layers.Dense(6, "relu"), layers.Dense(3)])
    return keras.Model(inputs, inner(x))


@pytest.mark.slow
def test_the_figures_are_those_of_the_frameworks_differentiation():
    keras.utils.set_random_seed(2)
    model = mixed()
    batch = np.random.default_rng(5).normal(size=(6, 8, 8, 4)).astype("float32")
    loss = lambda outputs: keras.ops.mean(keras.ops.square(outputs))  # noqa: E731
    report = keras_he.audit(model, batch, loss=loss)
    weights = {id(one): place for place, one in enumerate(model.trainable_variables)}
    found = autodiff.kernel_gradients(model, batch, loss)
    assert len(report.kernels) == 10
    variables = {one.path: one for one in model.trainable_variables}
    for row in report.kernels:
        (variable,) = (
            one for path, one in variables.items() if path.endswith(last_names(row.path))
        )
        gradient = keras.ops.convert_to_numpy(found[weights[id(variable)]]).astype("float64")
        assert row.figures.kernel_gradient == pytest.approx(np.mean(gradient**2), rel=1e-5)
    seen = signals.second_moments(model, batch)
    told = {row.path: row for row in report.kernels}
    shared = next(row for path, row in told.items() if path.startswith("shared"))
    assert len(shared.moments) == 2
    outside = next(values for path, values in seen.items() if path.startswith("shared"))
    assert shared.moments == pytest.approx(outside, rel=1e-5)
    ours = sorted(one for row in told.values() for one in row.moments)
    theirs = sorted(one for values in seen.values() for one in values)
    assert [min(ours, key=lambda one: abs(one - other)) for other in theirs] == pytest.approx(
        theirs, rel=1e-5
    )


def last_names(path):
    """Returns what the end of a path has in common with Keras' own path of a variable."""
    return "/".join(path.split("/")[-2:])


def test_dead_and_saturated_shares_are_counted():
    inputs = keras.Input((4,))
    x = layers.Dense(4, activation="relu", kernel_initializer="identity", name="relu")(inputs)
    y = layers.Dense(4, activation="tanh", kernel_initializer="identity", name="tanh")(inputs)
    batch = np.zeros((16, 4), "float32")
    batch[:, 0] = np.linspace(-5, -1, 16)  # dead
    batch[:, 1] = np.linspace(-1, 2, 16)
    batch[:, 2] = np.linspace(3, 4, 16)  # flat for tanh, whose slope is 0.05 at 2.18
    batch[:, 3] = np.linspace(-0.5, 0.5, 16)
    report = keras_he.audit(keras.Model(inputs, [x, y]), batch)
    figures = {row.path: row.figures for row in report.kernels}
    assert figures["relu/kernel"].dead == 0.25
    assert figures["relu/kernel"].saturated == 0.0
    flat = (np.abs(batch) > 2.18).mean()
    assert figures["tanh/kernel"].saturated == pytest.approx(flat, abs=0.02)


def test_an_activation_layer_behind_a_normalisation_counts_for_the_kernel():
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="kernel_in_front")(inputs)
    x = layers.ReLU()(
        layers.BatchNormalization(beta_initializer=keras.initializers.Constant(-9))(x)
    )
    report = keras_he.audit(keras.Model(inputs, layers.Dense(2)(x)))
    (finding,) = [one for one in report.findings if one.verdict == "dead"]
    assert finding.layer == "kernel_in_front"


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", ["recurrent", "subclassed", "several inputs", "U-Net"])
def test_nothing_of_the_model_is_changed(name):
    build = {**architectures.SMALL, **plants.GOOD}[name]
    model = build()
    batch = batch_for(model)
    model(batch)  # Keras notes of a layer that it was called
    before = [np.array(keras.ops.convert_to_numpy(one)) for one in model.variables]
    attributes = [dict(vars(layer)) for layer in model._flatten_layers()]
    keras_he.audit(model, batch)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))
    for old, layer in zip(attributes, model._flatten_layers(), strict=True):
        assert {key: id(value) for key, value in old.items()} == {
            key: id(value) for key, value in vars(layer).items()
        }


def test_the_same_audit_says_the_same():
    model = architectures.unet()
    assert keras_he.audit(model) == keras_he.audit(model)


def test_without_backward_there_is_no_gradient():
    report = keras_he.audit(architectures.unet(), backward=False)
    assert report.gradient_spread is None
    assert {row.figures.gradient for row in report.kernels} == {None}


def test_thresholds_can_be_set():
    keras.utils.set_random_seed(0)
    model = architectures.dense_chain("relu", depth=20)
    assert verdicts(keras_he.audit(model)) == {"vanishing"}
    assert keras_he.audit(model, thresholds={"signal": 1e30, "gradient": 1e30}).findings == ()


def test_a_wrong_figure_of_a_trained_kernel_is_not_held_against_its_initializer():
    plant = plants.depthwise("he_normal")
    kernel = plant.model.get_layer("planted").kernel
    assert verdicts(keras_he.audit(plant.model)) == {"wrong-fan"}
    kernel.assign(kernel.value * 8.0)
    assert keras_he.audit(plant.model).findings == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thresholds": {"signla": 1.0}}, r"Did you mean \"signal\"\?"),
        ({"thresholds": {"dead": -1.0}}, r"`thresholds\['dead'\]` must be a number above 0"),
        ({"thresholds": 3.0}, "`thresholds` must be a dict"),
        ({"loss": 3.0}, "`loss` must be a Keras loss, its name, a dict or list"),
        ({"loss": "msee"}, "`loss` must be the name of a Keras loss"),
        ({"loss": lambda y: "x"}, "`loss` must give numbers of the model's outputs"),
        ({"loss": "mse"}, r"`data` must be \(inputs, targets\)"),
        ({"loss": lambda a, b, c: a}, "`loss` must be a function of"),
        ({"backward": "yes"}, "`backward` must be True or False"),
        ({"data": iter([1])}, "`data` must be a dataset or arrays"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_argument_is_named(arguments, message):
    model, _, _ = tanh_net()
    with pytest.raises(keras_he.KerasHeError, match=message):
        keras_he.audit(model, **arguments)


def test_a_dataset_gives_inputs_and_targets_of_one_batch():
    class Pairs(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return batch, targets

    model, batch, targets = tanh_net()
    by_pairs = keras_he.audit(model, Pairs(), loss=keras.losses.MeanSquaredError())
    assert by_pairs == keras_he.audit(model, (batch, targets), loss=keras.losses.MeanSquaredError())


def test_a_comparison_says_what_is_gone():
    keras.utils.set_random_seed(0)
    model = architectures.dense_chain("relu", depth=30, width=32)
    before = keras_he.audit(model)
    keras_he.initialize(model, seed=1)
    told = before.compare(keras_he.audit(model))
    assert {one.verdict for one in told.gone} == {"vanishing"}
    assert told.new == ()
    assert "✓ gone: vanishing" in str(told)
    assert len(told.to_dict()["kernels"]) == 31
    assert max(len(line) for line in str(told).splitlines()) <= 100


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_the_table_fits_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    model = architectures.transformer(2)
    lines = str(keras_he.audit(model)).splitlines()
    assert max(len(line) for line in lines) <= min(columns, 100)
    told = "".join(line.split(" ")[0] for line in lines)  # a long name goes on in the next line
    assert told.count("/attention_output/kernel") == 2


def test_a_report_is_plain_values():
    model, batch, targets = tanh_net()
    told = json.loads(keras_he.audit(model, (batch, targets), loss="mse").to_json())
    holed = plants.PLANTS["NaN, dense"]().model
    assert json.loads(keras_he.audit(holed).to_json())["rows"][2]["moments"] == ["nan"]
    assert told["audited"] is True
    assert set(told["rows"][0]["figures"]) >= {"std", "dead", "gradient", "update_ratio"}
