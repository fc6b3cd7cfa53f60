"""The golden files: what any released version saved loads, with its weights, for ever."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_he

FOLDER = Path(__file__).resolve().with_name("golden")
FILES = sorted(path for path in FOLDER.glob("*/*") if path.suffix in (".keras", ".h5"))
every_file = pytest.mark.parametrize(
    "path", FILES, ids=[f"{path.parent.name}-{path.name}" for path in FILES]
)
CLASSES = [name for name in keras_he.__all__ if name.startswith("Kaiming")]


def expected(path):
    """Returns the weights of a file, the configs of its initializers, and what each draws."""
    with np.load(path.with_suffix(".npz")) as file:
        arrays = {name: file[name] for name in file.files}
    configs = json.loads(str(arrays.pop("configs")))
    weights = [value for name, value in sorted(arrays.items()) if name.startswith("weight_")]
    draws = [value for name, value in sorted(arrays.items()) if name.startswith("draw_")]
    return weights, configs, draws


def plain(serialized):
    """Returns a serialized initializer without what Keras 3.12 leaves out of a generator."""
    seed = serialized["config"].get("seed")
    if isinstance(seed, dict):
        seed["config"].pop("name", None)
    return serialized


def initializers(model):
    """Returns the initializers of keras_he that a model's layers and cells hold."""
    cells = [getattr(layer, "cell", layer) for layer in model.layers]
    names = ("kernel_initializer", "depthwise_initializer", "recurrent_initializer")
    held = [getattr(cell, name, None) for cell in cells for name in names]
    return [one for one in held if type(one).__name__ in CLASSES]


def test_every_class_of_every_version_has_its_files():
    versions = [path for path in FOLDER.iterdir() if path.is_dir()]
    assert {path.name for path in versions} >= {"0.1.0"}
    for version in versions:
        written = {path.name for path in version.iterdir()}
        assert written == {f"{name}{end}" for name in CLASSES for end in (".keras", ".h5", ".npz")}


@every_file
def test_weights_are_those_that_were_saved(path):
    weights, _, draws = expected(path)
    loaded = keras.models.load_model(path, compile=False).get_weights()
    assert len(loaded) == len(weights) > len(draws) > 0
    for one, other in zip(loaded, weights, strict=True):
        np.testing.assert_array_equal(one, other)


@every_file
def test_initializers_are_those_that_were_saved(path):
    _, configs, _ = expected(path)
    model = keras.models.load_model(path, compile=False)
    again = [plain(keras.initializers.serialize(one)) for one in initializers(model)]
    assert json.loads(json.dumps(again)) == [plain(one) for one in configs]


@every_file
def test_initializers_draw_what_they_drew(path):
    _, _, draws = expected(path)
    model = keras.models.load_model(path, compile=False)
    made = initializers(model)
    assert len(made) == len(draws) > 0
    for initializer, values in zip(made, draws, strict=True):
        # The generator has moved on by what the model drew while it was built.
        again = type(initializer).from_config(initializer.get_config())
        drawn = keras.ops.convert_to_numpy(again(values.shape, "float32"))
        # QR is LAPACK's: the last digit of float32 may be another one elsewhere.
        tolerance = 2.0**-22 if initializer.law == "orthogonal" else 0.0
        np.testing.assert_allclose(drawn, values, rtol=0, atol=tolerance)


@every_file
def test_no_golden_weight_is_what_an_initializer_draws(path):
    weights, _, draws = expected(path)
    kernels = [weight for weight in weights if weight.ndim > 1]
    for kernel, draw in zip(kernels, draws, strict=True):
        np.testing.assert_array_equal(kernel, draw + np.float32(0.5))
