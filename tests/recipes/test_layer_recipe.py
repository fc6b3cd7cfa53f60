"""A toy layer of Keras, added as ARCHITECTURE.md says, works in all that is public.

The layer upsamples, with a kernel of shape (height, width, outputs, inputs), so Keras' own
`he_normal` takes the outputs for inputs, and knows nothing of the strides.
"""

import inspect
import json
import math

import pytest
from package_copy import PackageCopy, modules_of_recipe

RULE = """
    "Upsample2D": lambda layer: {"taps": {"geometry": "transpose", "strides": layer.strides}},
""".strip("\n")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    copy = PackageCopy(tmp_path_factory.mktemp("layer"))
    copy.insert("layers/rules", after="_BUILT_IN: dict[", text=RULE)
    assert copy.changed == modules_of_recipe("a layer")
    (copy.folder / "toy.py").write_text(inspect.getsource(toy).replace("def toy():", "if True:"))
    return copy


def toy():
    """Adds the layer to Keras, as a new version of Keras would; a module of its own in the copy."""
    import keras

    @keras.saving.register_keras_serializable("toy")
    class Upsample2D(keras.layers.Layer):
        def __init__(self, filters, strides=2, taps_initializer="he_normal", **kwargs):
            super().__init__(**kwargs)
            self.filters, self.strides = filters, (strides, strides)
            self.taps_initializer = keras.initializers.get(taps_initializer)

        def build(self, shape):
            self.taps = self.add_weight(
                shape=(4, 4, self.filters, shape[-1]),
                name="taps",
                initializer=self.taps_initializer,
            )

        def call(self, inputs):
            return keras.ops.conv_transpose(inputs, self.taps, self.strides, padding="same")

        def get_config(self):
            initializer = keras.initializers.serialize(self.taps_initializer)
            own = {"filters": self.filters, "strides": 2, "taps_initializer": initializer}
            return {**super().get_config(), **own}

    keras.layers.Upsample2D = Upsample2D


def everything():
    """Prints what is public with the toy layer; it runs in a process that has the copy."""
    import json

    import keras
    import numpy as np
    import toy  # noqa: F401 - before keras_he, as Keras' own layers are

    import keras_he

    found = {}
    layers, numbers = keras.layers, keras.ops.convert_to_numpy

    def network(**arguments):
        return keras.Sequential(
            [
                keras.Input((8, 8, 16)),
                layers.Conv2D(16, 3, activation="relu", padding="same"),
                layers.Upsample2D(64, name="up", **arguments),
                layers.ReLU(),
                layers.GlobalAveragePooling2D(),
                layers.Dense(4),
            ]
        )

    # What one output adds up, and to what one input is added: sums of ones, away from the border.
    layer = layers.Upsample2D(64, taps_initializer="ones")
    found["sum in"] = float(numbers(layer(np.ones((1, 8, 8, 16), "float32")))[0, 8, 8, 0])
    one = np.zeros((1, 8, 8, 16), "float32")
    one[0, 4, 4, 0] = 1.0
    found["sum out"] = float(numbers(layer(one)).sum())
    found["fans"] = list(keras_he.layer_fans(layer)["taps"])

    model = network()
    findings = [one for one in keras_he.audit(model).findings if one.layer == "up"]
    found["verdicts"] = [one.verdict for one in findings]
    found["remedy"] = findings[0].remedy
    mended = network(**eval(f"dict({findings[0].remedy})"))
    found["mended"] = [one.verdict for one in keras_he.audit(mended).findings if one.layer == "up"]

    report = keras_he.initialize(model, seed=1)
    rows = {row.path: row for row in report.kernels}
    found["row"] = [rows["up/taps"].rule, rows["up/taps"].moments[0], rows["up/taps"].layer]
    report.check()
    again = network()
    keras_he.initialize(again, data=False, seed=1)
    found["analytic"] = float(numbers(again.get_layer("up").taps).std())
    found["text"] = "up/taps" in str(report)

    model.save("model.keras")
    with keras_he.skip_init():
        loaded = keras.saving.load_model("model.keras")
    both = zip(model.get_weights(), loaded.get_weights(), strict=True)
    found["loaded"] = all(np.array_equal(one, other) for one, other in both)
    found["portable"] = [one.layer for one in keras_he.make_portable(loaded)]
    found["kept"] = "keras_he" not in json.dumps(loaded.get_config(), default=str)

    model.compile("sgd", "mse")
    logger = keras_he.SignalLogger(every=1, kernels="up/taps")
    x, y = np.ones((4, 8, 8, 16), "float32"), np.ones((4, 4), "float32")
    history = model.fit(x, y, verbose=0, callbacks=[logger])
    found["logged"] = "signal/up/taps" in history.history
    print(json.dumps(found))


@pytest.fixture(scope="module")
def found(package):
    code = f"{inspect.getsource(everything)}\neverything()"
    return json.loads(package.run(code).splitlines()[-1])


def test_its_fans_are_those_of_sums_of_ones(found):
    assert found["fans"] == [found["sum in"], found["sum out"]] == [64.0, 1024.0]


def test_an_audit_finds_a_wrong_initializer_and_the_remedy_clears_it(found):
    assert found["verdicts"] == ["wrong-fan"]
    assert "transpose" in found["remedy"]
    assert found["mended"] == []


def test_a_model_with_it_is_initialized(found):
    rule, moment, layer = found["row"]
    assert (rule, layer) == ("measured", "Upsample2D")
    assert moment == pytest.approx(1.0, rel=0.01)  # gains keep three digits
    # After a ReLU sqrt(2 / 64); of 16384 values the deviation is within six standard errors.
    assert found["analytic"] == pytest.approx(math.sqrt(2 / 64), rel=6 / math.sqrt(2 * 16384))
    assert found["text"]


def test_it_is_saved_loaded_made_portable_and_logged(found):
    assert found["loaded"]
    assert found["portable"] == ["conv2d", "up", "dense"]
    assert found["kept"]
    assert found["logged"]


def test_the_command_line_takes_it(package, found):
    command = ["audit", "model.keras", "--import", "toy", "--json", "-"]
    report = json.loads(package.run(command=command))
    assert "up/taps" in [row["path"] for row in report["rows"]]
    assert report["findings"] == []
