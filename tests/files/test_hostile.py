"""Files that are cut, damaged or made to do harm: an error that says what is wrong, and no more.

keras_he looks nothing up that stands in its configs, so that holds where `safe_mode` is off too.
"""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import keras_he

L = keras.layers
NAME = "keras_he>KaimingNormal"


class Calls:
    count = 0


calls = Calls()


@keras.saving.register_keras_serializable("hostile")
def sprung(*_args, **_kwargs):
    calls.count += 1
    return 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with a sound model in every form, whose initializer is to be exchanged."""
    folder = tmp_path_factory.mktemp("sound")
    kernel = keras_he.KaimingNormal("prelu", seed=1)
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, kernel_initializer=kernel)])
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    model.save_weights(folder / "model.weights.h5")
    (folder / "model.json").write_text(model.to_json())
    return folder


@pytest.fixture(autouse=True)
def watched(tmp_path, monkeypatch):
    """Fails where anything in a file was run, imported or written."""
    (tmp_path / "hostile_module.py").write_text(
        "open('ran', 'w').close()\n\ndef payload(*_): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    hooks = keras.Variable.__init__, keras.Variable.assign
    calls.count = 0
    yield
    assert calls.count == 0
    assert "hostile_module" not in sys.modules
    assert not Path("ran").exists()
    assert (keras.Variable.__init__, keras.Variable.assign) == hooks


def exchanged(config, initializer):
    """Returns a model's config, or its JSON, with our initializer exchanged for another."""
    if isinstance(config, dict):
        if config.get("registered_name") == NAME:
            return initializer
        return {key: exchanged(value, initializer) for key, value in config.items()}
    if isinstance(config, list):
        return [exchanged(one, initializer) for one in config]
    return config


def with_initializer(folder, target, ending, initializer):
    """Writes the sound model with another initializer; returns the path."""
    path = target / f"hostile{ending}"
    text = (folder / "model.json").read_text()
    if ending == ".json":
        path.write_text(json.dumps(exchanged(json.loads(text), initializer)))
    elif ending == ".h5":
        shutil.copy(folder / "model.h5", path)
        with h5py.File(path, "r+") as file:
            config = exchanged(json.loads(file.attrs["model_config"]), initializer)
            file.attrs["model_config"] = json.dumps(config)
    else:
        with zipfile.ZipFile(folder / "model.keras") as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name == "config.json":
                    data = json.dumps(exchanged(json.loads(data), initializer)).encode()
                new.writestr(name, data)
    return path


def load(path, safe_mode=True):
    if path.suffix == ".json":
        return keras.models.model_from_json(path.read_text())
    return keras.models.load_model(path, safe_mode=safe_mode, compile=False)


def ours(config, class_name="KaimingNormal"):
    return {
        "module": "keras_he",
        "class_name": class_name,
        "config": config,
        "registered_name": f"keras_he>{class_name}",
    }


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


LAMBDA = {"class_name": "__lambda__", "config": {"value": "4wAAAAAAAAAA"}}
FUNCTION = {
    "module": "builtins",
    "class_name": "function",
    "config": "sprung",
    "registered_name": "hostile>sprung",
}
SYSTEM = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
MODULE = {
    "module": "hostile_module",
    "class_name": "payload",
    "config": {},
    "registered_name": None,
}

# What stands in the place of the initializer, and what the error says of it.
HOSTILE = {
    "system": (ours({"activation": "os.system"}), "`activation` must be"),
    "system_function": (ours({"activation": SYSTEM}), "`activation` must be a name in a config"),
    "lambda": (ours({"activation": LAMBDA}), "`activation` must be a name in a config"),
    "registered_function": (ours({"activation": FUNCTION}), "`activation` must be a name"),
    "a_module": (ours({"activation": MODULE}), "`activation` must be a name in a config"),
    "function_as_gain": (ours({"gain": FUNCTION}), "`gain` must be"),
    "lambda_as_slope": (
        ours({"activation": "prelu", "negative_slope": LAMBDA}),
        "`negative_slope`",
    ),
    "function_as_seed": (ours({"seed": FUNCTION}), "`seed` must be"),
    "system_as_mode": (ours({"mode": "os.system"}), "`mode` must be"),
    "system_as_geometry": (ours({"geometry": SYSTEM}), "`geometry` must be"),
    "foreign_arguments": (ours({"scale": 2.0, "distribution": "normal"}), "`config` must be"),
    "deep": (ours({"strides": nested(200)}), "`strides` must be"),
    "deep_activation": (ours({"activation": nested(200)}), "`activation` must be a name"),
    "many_keys": (ours(dict.fromkeys(map(str, range(10**4)))), "`config` must be"),
    "list_as_config": (ours([1, 2]), "KaimingNormal"),  # refused by Keras itself
    "text_as_config": (ours("os.system"), "KaimingNormal"),
    "unknown_class": (ours({}, "KaimingCauchy"), "KaimingCauchy"),
    "built_in_with_our_arguments": (
        {
            "module": "keras.initializers",
            "class_name": "HeNormal",
            "config": {"activation": "prelu", "negative_slope": 0.25},
            "registered_name": None,
        },
        "unexpected keyword argument",
    ),
    "our_name_for_a_layer": (
        {**ours({"units": 3}), "class_name": "Dense", "module": "keras.layers"},
        "`config` must be a dict with keys among activation",
    ),
}


@pytest.mark.parametrize("safe_mode", [True, False], ids=["safe", "unsafe"])
@pytest.mark.parametrize("ending", [".keras", ".h5", ".json"])
@pytest.mark.parametrize(("initializer", "match"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_config_is_refused_and_runs_nothing(
    folder, tmp_path, initializer, match, ending, safe_mode
):
    path = with_initializer(folder, tmp_path, ending, initializer)
    # Keras raises it again as an error of the layer, with ours at its end.
    with pytest.raises((TypeError, ValueError), match=match):
        load(path, safe_mode)


def test_the_traps_would_shut(folder, tmp_path):
    """What is watched for is seen where a file may run it: here the layer's own activation."""
    config = json.loads((folder / "model.json").read_text())
    config["config"]["layers"][1]["config"]["activation"] = FUNCTION
    keras.models.model_from_json(json.dumps(config)).layers[0].activation(1.0)
    assert calls.count == 1
    calls.count = 0


@pytest.mark.parametrize("ending", [".keras", ".h5", ".json"])
def test_the_sound_model_loads_by_the_same_way(folder, tmp_path, ending):
    path = with_initializer(folder, tmp_path, ending, ours({"activation": "tanh"}))
    assert load(path).layers[0].kernel_initializer.activation == "tanh"


def test_a_config_of_100_megabytes_is_refused(folder, tmp_path):
    path = with_initializer(folder, tmp_path, ".keras", ours({"activation": "a" * 10**8}))
    with pytest.raises((TypeError, ValueError)) as raised:
        load(path)
    # Keras puts the config into its message; what we say of it is short, and stands at the end.
    told = str(raised.value)[-400:]
    assert "`activation` must be" in told
    assert "Received: activation='aaa" in told


def test_nesting_beyond_the_reader_is_an_error(folder, tmp_path):
    path = with_initializer(folder, tmp_path, ".keras", ours({"activation": "DEEP"}))
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    deep = b"[" * 10**5 + b"]" * 10**5
    parts["config.json"] = parts["config.json"].replace(b'"DEEP"', deep)
    with zipfile.ZipFile(path, "w") as new:
        for name, data in parts.items():
            new.writestr(name, data)
    with pytest.raises(RecursionError):
        load(path)


# Files that are cut or damaged


def damaged(data, how):
    if how == "empty":
        return b""
    if how == "text":
        return b"a file of another kind\n" * 40
    if how == "directory":  # where an archive says what is in it; the root of an HDF5 file
        return data.replace(b"PK\1\2", b"PK\0\0").replace(b"\x89HDF", b"\0\0\0\0")
    return data[: int(len(data) * float(how))]


@pytest.mark.parametrize("skipping", [False, True], ids=["plain", "skip_init"])
@pytest.mark.parametrize("how", ["empty", "text", "directory", "0.1", "0.5", "0.9", "0.999"])
@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5"])
def test_a_damaged_file_is_an_error(folder, tmp_path, ending, how, skipping):
    path = tmp_path / f"damaged{ending}"
    path.write_bytes(damaged((folder / f"model{ending}").read_bytes(), how))

    def read():
        if ending == ".weights.h5":
            load(folder / "model.json").load_weights(path)
        else:
            load(path)

    with pytest.raises((OSError, ValueError, KeyError, zipfile.BadZipFile)):
        (keras_he.skip_init()(read) if skipping else read)()


def test_a_damaged_weight_in_an_archive_is_an_error(folder, tmp_path):
    path = tmp_path / "flipped.keras"
    data = bytearray((folder / "model.keras").read_bytes())
    kernel = load(folder / "model.keras").layers[0].kernel.numpy().tobytes()
    place = data.index(kernel[:16])  # the archive stores weights as they are
    data[place + 3] ^= 1
    path.write_bytes(data)
    # Where h5py's reader lets an error of Python's archive pass, Keras wraps it.
    with pytest.raises((OSError, ValueError, zipfile.BadZipFile), match="CRC"):
        load(path)


@pytest.mark.parametrize("how", ["0.5", "text"])
def test_the_command_line_says_it_in_one_line(folder, tmp_path, how, capsys):
    from keras_he.cli import main

    path = tmp_path / "damaged.keras"
    path.write_bytes(damaged((folder / "model.keras").read_bytes(), how))
    assert main(["audit", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "damaged.keras" in told


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("system", "Received: activation='os.system'"),
        ("deep", "Received: strides=[[["),
        ("foreign_arguments", "Received: config='scale'"),
    ],
)
def test_the_command_line_says_a_hostile_config_in_one_line(folder, tmp_path, kind, said, capsys):
    from keras_he.cli import main

    path = with_initializer(folder, tmp_path, ".keras", HOSTILE[kind][0])
    assert main(["audit", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told
    assert len(told) < 1000


def test_weights_are_those_of_the_sound_file(folder):
    weights = load(folder / "model.keras").get_weights()
    model = load(folder / "model.json")
    assert not np.array_equal(model.get_weights()[1], weights[0])
    model.load_weights(folder / "model.weights.h5")
    np.testing.assert_array_equal(model.get_weights()[0], weights[0])
