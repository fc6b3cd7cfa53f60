"""A toy law, added as ARCHITECTURE.md says, works in all that is public; an unknown law nowhere."""

import inspect
import json
import re
from typing import get_args

import pytest
from package_copy import PackageCopy, modules_of_recipe

import keras_he
from keras_he.cli import main
from keras_he.initializers.kaiming import CLASSES
from keras_he.sampling.laws import LAWS, LawName
from keras_he.sampling.regions import draw_region
from keras_he.sampling.stream import draw

FILLER = """
def signs(std: float) -> Fill:
    size = np.array(std, np.float32)

    def centre(words: Words, values: Values, scratch: NDArray[np.float32]) -> None:
        values[...] = words
        copysign(size, values, values)

    return Fill(centre)


"""

RECORD = """
        Law(
            "signs",
            suffix="_signs",
            class_name="KaimingSigns",
            fill=signs,
            built_in=None,
            furthest=1.0,
        ),
"""

CLASS = '''
@keras.saving.register_keras_serializable("keras_he")
class KaimingSigns(Kaiming):
    """Draws `±std`, each with probability 1/2."""

    law = "signs"


'''


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    copy = PackageCopy(tmp_path_factory.mktemp("law"))
    copy.replace("sampling/laws", '"orthogonal"]', '"orthogonal", "signs"]')
    copy.replace("sampling/laws", "class Law(", f"{FILLER.lstrip()}class Law(")
    copy.insert("sampling/laws", after="    for law in (", text=RECORD.strip("\n"))
    copy.replace("initializers/kaiming", "CLASSES: dict[", f"{CLASS.lstrip()}CLASSES: dict[")
    copy.replace(
        "__init__", "        KaimingOrthogonal,\n", "        KaimingOrthogonal, KaimingSigns,\n"
    )
    copy.insert("__init__", after='    "KaimingOrthogonal",', text='    "KaimingSigns",')
    assert copy.changed == modules_of_recipe("a law")
    return copy


def everything():
    """Prints what is public with the toy law; it runs in a process that has the copy."""
    import copy
    import json
    import pickle

    import keras
    import numpy as np

    import keras_he
    from keras_he.sampling.regions import draw_region
    from keras_he.sampling.stream import draw

    found = {}
    layers, numbers = keras.layers, keras.ops.convert_to_numpy

    def sizes(kernel):
        return sorted({round(float(size), 6) for size in abs(numbers(kernel)).ravel()})

    ours = keras_he.KaimingSigns("tanh", mode="fan_out", seed=3)
    kernel = numbers(ours((64, 16)))
    found["size"], found["gain"] = sizes(kernel), keras_he.gain("tanh", mode="fan_out")
    found["mean"] = float(np.sign(kernel).mean())
    found["repr"] = repr(ours)
    layer = layers.Dense(4, kernel_initializer="he_gelu_signs_fan_out")
    found["string"] = repr(layer.kernel_initializer)
    found["get"] = repr(keras_he.get("he_relu_signs_depthwise"))
    found["get class"] = repr(keras_he.get("keras_he>KaimingSigns"))
    found["registered"] = keras.saving.get_registered_name(keras_he.KaimingSigns)
    found["names"] = keras_he.names("he_relu_signs*")
    found["grammar"] = "_signs" in repr(keras_he.names())
    large = keras_he.KaimingSigns(gain=65504.0 * 2, seed=1)((4, 4), "float16")
    found["largest float16"] = sizes(large)

    plain = json.loads(json.dumps(keras.initializers.serialize(ours)))
    copies = [
        keras.initializers.deserialize(plain),
        keras_he.KaimingSigns.from_config(ours.get_config()),
        pickle.loads(pickle.dumps(ours)),
        copy.deepcopy(ours),
    ]
    found["round trips"] = [bool(np.array_equal(numbers(one((64, 16))), kernel)) for one in copies]

    region = (slice(3, 30), slice(10, 20))
    whole = draw("signs", (40, 50), 0.5, 7, "float32")
    part = draw_region("signs", (40, 50), region, 0.5, 7, "float32")
    found["region"] = bool(np.array_equal(part, whole[region]))

    model = keras.Sequential(
        [
            keras.Input((8, 8, 6)),
            layers.Conv2D(12, 3, activation="relu", kernel_initializer="he_linear_signs"),
            layers.Conv2D(12, 3, activation="gelu", kernel_initializer="he_tanh_signs"),
            layers.Conv2DTranspose(8, 4, strides=2, kernel_initializer="he_gelu_signs"),
            layers.Flatten(),
            layers.Dense(4, kernel_initializer="he_linear_signs"),
        ]
    )
    kernels = [layer for layer in model.layers if layer.weights]
    model.save("model.keras")
    loaded = keras.saving.load_model("model.keras")
    found["loaded"] = [repr(one.kernel_initializer) for one in loaded.layers if one.weights]
    both = zip(model.get_weights(), loaded.get_weights(), strict=True)
    found["weights"] = all(np.array_equal(one, other) for one, other in both)

    report = keras_he.audit(model, backward=False)
    found["remedies"] = {finding.verdict: finding.remedy for finding in report.findings}

    before = [layer.kernel_initializer for layer in kernels]
    try:
        keras_he.make_portable(model)
    except keras_he.KerasHeError as error:
        found["portable"] = f"{type(error).__name__}: {error}"
    found["kept"] = [layer.kernel_initializer for layer in kernels] == before

    report = keras_he.initialize(model, law="signs", seed=1)
    found["law"], found["text"] = report.law, "signs" in str(report)
    found["classes"] = [type(layer.kernel_initializer).__name__ for layer in kernels]
    found["sizes"] = [len(sizes(layer.kernel)) for layer in kernels]
    for layer in kernels:  # as the error of `make_portable` says
        layer.kernel_initializer = keras.initializers.RandomNormal(stddev=0.1)
    found["portable after all"] = len(keras_he.make_portable(model))
    print(json.dumps(found))


@pytest.fixture(scope="module")
def found(package):
    return json.loads(
        package.run(f"{inspect.getsource(everything)}\neverything()").splitlines()[-1]
    )


def test_its_class_draws_it_with_the_right_standard_deviation(found):
    assert found["size"] == [pytest.approx(found["gain"] / 4, abs=1e-6)]
    assert abs(found["mean"]) <= 0.2  # of 1024 signs: six standard deviations
    assert found["repr"] == "KaimingSigns(activation='tanh', mode='fan_out', seed=3)"
    assert found["largest float16"] == [65504.0]


def test_its_strings_are_known_to_layers_get_and_names(found):
    assert found["string"] == "KaimingSigns(activation='gelu', mode='fan_out')"
    assert found["get"] == "KaimingSigns(geometry='depthwise')"
    assert found["get class"] == "KaimingSigns()"
    assert found["registered"] == "keras_he>KaimingSigns"
    assert len(found["names"]) == 6
    assert found["grammar"]


def test_it_is_saved_and_loaded(found):
    assert found["round trips"] == [True] * 4
    assert found["weights"]
    assert found["loaded"] == [
        f"KaimingSigns(activation='{name}')" for name in ("linear", "tanh", "gelu", "linear")
    ]


def test_a_region_of_it_is_drawn_alone(found):
    assert found["region"]


def test_an_audit_writes_remedies_of_this_law(found):
    transposed = 'kernel_initializer=keras_he.KaimingSigns("gelu", geometry="transpose", strides=2)'
    assert found["remedies"]["wrong-gain"] == 'kernel_initializer="he_relu_signs"'
    assert found["remedies"]["wrong-fan"] == transposed


def test_a_model_is_initialized_with_it(found):
    assert found["law"] == "signs"
    assert found["text"]
    assert found["classes"] == ["KaimingSigns"] * 4
    assert found["sizes"] == [1] * 4


def test_without_a_built_in_of_keras_it_is_not_portable_and_the_error_says_what_to_do(found):
    assert found["portable"].startswith("NotPortable: `conv2d/kernel` must have an initializer")
    assert "It has KaimingSigns(activation='linear')" in found["portable"]
    assert "`keras.initializers.RandomNormal(stddev=0.136083)`" in found["portable"]  # 54 ** -0.5
    assert found["kept"]
    assert found["portable after all"] == 0


def test_the_command_line_knows_it(package, found):
    assert package.run(command=["names", "he_tanh_signs"]).split() == ["he_tanh_signs"]
    printed = package.run(command=["init", "model.keras", "out.keras", "--law", "signs"])
    assert re.search(r"4 of 4 kernels .*\bsigns\b", printed)


UNKNOWN = {
    "initialize": lambda: keras_he.initialize(None, law="cauchy"),
    "a class": lambda: type("KaimingCauchy", (keras_he.KaimingNormal,), {"law": "cauchy"})(),
    "draw": lambda: draw("cauchy", (2, 2), 1.0, 1, "float32"),
    "draw_region": lambda: draw_region("cauchy", (2, 2), (slice(1),), 1.0, 1, "float32"),
}


@pytest.mark.parametrize("call", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_law_is_named_with_those_there_are(call):
    laws = "'normal', 'uniform', 'truncated_normal', 'orthogonal'"
    with pytest.raises(
        keras_he.KerasHeError, match=f"`law` must be one of {laws}. Received: law='"
    ):
        call()


def test_a_law_that_is_nearly_right_is_guessed():
    with pytest.raises(keras_he.KerasHeError, match='Did you mean "truncated_normal"'):
        keras_he.initialize(None, law="truncated_norm")


def test_the_orthogonal_law_is_not_drawn_element_by_element():
    with pytest.raises(keras_he.KerasHeError, match="`law` must be one that is drawn element by"):
        draw("orthogonal", (2, 2), 1.0, 1, "float32")


def test_a_string_with_an_unknown_law_is_refused():
    with pytest.raises(keras_he.KerasHeError, match="`identifier` must be a string"):
        keras_he.get("he_relu_cauchy")


def test_the_command_line_lists_the_laws(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["init", "model.keras", "out.keras", "--law", "cauchy"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert all(law in told for law in LAWS)


def test_every_law_has_its_name_in_the_type_and_its_class_among_the_public_names():
    assert get_args(LawName) == tuple(LAWS) == tuple(CLASSES)
    for law in LAWS.values():
        assert CLASSES[law.name].__name__ == law.class_name
        assert getattr(keras_he, law.class_name) is CLASSES[law.name]
        assert law.class_name in keras_he.__all__
