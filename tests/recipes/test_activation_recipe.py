"""Toy activations, added as ARCHITECTURE.md says, work in all that is public."""

import inspect
import json
import math

import pytest
from package_copy import PackageCopy, modules_of_recipe

SNAKE = '    "snake": _integrated(lambda x: x + np.sin(x) ** 2),'  # without a closed form
CUBE = '    "cube": _pieces(lambda: closed_forms.CUBE_PIECES),'
CUBE_PIECES = "CUBE_PIECES = (Piece(-inf, inf, (Term(1.0, 3),)),)"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    copy = PackageCopy(tmp_path_factory.mktemp("activation"))
    copy.append("theory/closed_forms", CUBE_PIECES)
    copy.insert("theory/activations", after="KNOWN: dict[", text=f"{CUBE}\n{SNAKE}")
    assert copy.changed == modules_of_recipe("an activation")
    return copy


def everything():
    """Prints what is public with the toy activations; it runs in a process that has the copy."""
    import json

    import keras

    def snake(x):
        return x + keras.ops.sin(x) ** 2

    keras.activations.snake = snake  # as in a version of Keras that has the activation

    import keras_he

    found = {}
    layers = keras.layers
    found["gains"] = [keras_he.gain("snake", mode=mode) for mode in ("fan_in", "fan_out")]
    found["cube"] = [keras_he.gain("cube", mode=mode) for mode in ("fan_in", "fan_out")]
    found["function"] = keras_he.gain(keras.activations.snake)
    found["depth"] = [keras_he.depth_factors("snake"), keras_he.depth_factors("cube")]
    layer = layers.Dense(4, kernel_initializer="he_snake_uniform_fan_out")
    found["string"] = repr(layer.kernel_initializer)
    found["names"] = keras_he.names("he_snake*")
    found["grammar"] = "snake" in repr(keras_he.names())
    for name in ("snake", keras.activations.snake):
        ours = keras_he.KaimingNormal(name)
        config = json.loads(json.dumps(keras.initializers.serialize(ours)))
        found.setdefault("configs", []).append(config["config"])
        found.setdefault("again", []).append(repr(keras.initializers.deserialize(config)))

    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(24, keras.activations.snake, kernel_initializer="he_linear"),
            layers.Dense(8, kernel_initializer="he_relu_uniform"),
        ]
    )
    found["findings"] = {
        one.verdict: one.remedy for one in keras_he.audit(model, backward=False).findings
    }
    report = keras_he.initialize(model, False, seed=1)
    found["rows"] = [[row.activation, row.gain, row.rule] for row in report.kernels]
    report = keras_he.initialize(model, seed=1)
    found["measured"] = [row.rule for row in report.kernels]
    print(json.dumps(found))


@pytest.fixture(scope="module")
def found(package):
    return json.loads(
        package.run(f"{inspect.getsource(everything)}\neverything()").splitlines()[-1]
    )


# E[cos(k·z)] is exp(-k² / 2), and sin⁴ = 3/8 - cos(2·)/2 + cos(4·)/8.
SIGNAL = 1 + 3 / 8 - math.exp(-2) / 2 + math.exp(-8) / 8  # E[(z + sin² z)²]
GRADIENT = 1 + (1 - math.exp(-8)) / 2  # E[(1 + sin 2z)²]


def test_its_gain_is_integrated_or_follows_from_its_closed_form(found):
    assert found["gains"] == pytest.approx([SIGNAL**-0.5, GRADIENT**-0.5], rel=1e-9)
    assert found["cube"] == pytest.approx([15**-0.5, 27**-0.5], rel=1e-12)  # E[z⁶], E[9z⁴]
    assert found["function"] == found["gains"][0]


def test_its_depth_factors_follow(found):
    (_, gradient), cube = found["depth"]
    assert gradient == pytest.approx(GRADIENT / SIGNAL, rel=1e-9)
    assert cube == pytest.approx([3.0, 27 / 15], rel=1e-12)


def test_its_strings_are_known_to_layers_and_names(found):
    assert found["string"] == "KaimingUniform(activation='snake', mode='fan_out')"
    assert len(found["names"]) == 24
    assert found["grammar"]


def test_a_config_holds_its_name_also_where_the_function_was_given(found):
    assert found["configs"] == [{"activation": "snake"}] * 2
    assert found["again"] == ["KaimingNormal(activation='snake')"] * 2


def test_an_audit_writes_its_string_as_the_remedy(found):
    assert found["findings"]["wrong-gain"] == 'kernel_initializer="he_snake_uniform"'


def test_a_model_is_initialized_with_its_gain(found):
    first, second = found["rows"]
    assert second == ["snake", pytest.approx(SIGNAL**-0.5, rel=1e-2), "analytic"]
    assert first[0] == "linear"
    assert found["measured"] == ["measured", "measured"]


def test_the_command_line_tells_its_gain(package):
    printed = package.run(command=["gain", "snake", "--mode", "fan_out"]).splitlines()
    assert float(printed[0]) == pytest.approx(GRADIENT**-0.5, rel=1e-8)
    refused = package.run(command=["gain", "snakes"], code_expected=2)
    assert 'Did you mean "snake"?' in refused
