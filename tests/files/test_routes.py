"""Models by every route of Keras' own: files, JSON, clones; dtypes, quantization, LoRA; backends.

Each model of `routes` in each variant is written by every route that takes it. One fresh process
for each backend that is installed reads all files back: weights are equal bit for bit everywhere,
outputs on the backend that wrote them.
"""

import importlib.util
import json
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import routes
from routes import FLOAT32, INT8, LAWS, MODELS, POLICIES, ROUNDED, VARIANTS

import keras_he

BACKEND = keras.backend.backend()
BACKENDS = ("tensorflow", "jax", "torch")
IMPORTS = """
import keras
import numpy as np
import keras_he
"""
ROUTES = (".keras", ".h5", ".weights.h5")
# What a variant changes is the same in every file: `.weights.h5` is what a `.keras` file holds.
# Where the files go to all three backends, two models go in every variant.
VARIED = MODELS if BACKEND == "tensorflow" else ("normal", "initialized")
FILES = [
    *((name, "float32", route) for name in MODELS for route in ROUTES),
    *((name, variant, ".keras") for name in VARIED for variant in VARIANTS if variant != "float32"),
]
OUTPUT_BANDS = {"float32": FLOAT32, "lora": FLOAT32, "int8": 2 * INT8, **ROUNDED}
# Before 3.15 attention's kernels have no axes, int4 has other steps, and configs have other keys.
pytestmark = [pytest.mark.newest, pytest.mark.slow]
every_model = pytest.mark.parametrize("name", MODELS)
every_varied_model = pytest.mark.parametrize("name", VARIED)
every_file = pytest.mark.parametrize(("name", "variant", "route"), FILES)


def read_back(folder, files):
    """Loads every file, and writes what it finds beside it."""
    inputs = dict(np.load(f"{folder}/batch.npz"))
    for path in files:
        if path.endswith(".weights.h5"):
            with open(path.replace(".weights.h5", ".json")) as file:
                model = keras.models.model_from_json(file.read())
            model.load_weights(path)
        else:
            model = keras.models.load_model(path, compile=False)
        np.savez(f"{path}.{keras.backend.backend()}.npz", **facts(model, inputs))  # noqa: F821 - sent along
        with open(f"{path}.config.json", "w") as file:
            file.write(model.to_json())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns the folder into which every model was written by every route."""
    folder = tmp_path_factory.mktemp("routes")
    np.savez(folder / "batch.npz", **routes.batch())
    for name, variant, route in FILES:
        model, path = routes.model(name, variant), folder / f"{name}-{variant}{route}"
        (model.save_weights if route == ".weights.h5" else model.save)(path)
        (folder / f"{name}-{variant}.json").write_text(model.to_json())
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """Returns what every model is in this process."""
    return {
        (name, variant): routes.facts(routes.model(name, variant), routes.batch())
        for name, variant in sorted({(name, variant) for name, variant, _ in FILES})
    }


@pytest.fixture(scope="module", params=BACKENDS)
def read_on(request, folder, run_python):
    """Returns the backend of a fresh process that has read all files."""
    backend = request.param
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    paths = [str(folder / f"{name}-{variant}{route}") for name, variant, route in FILES]
    call = f"read_back({str(folder)!r}, {paths!r})"
    run_python(IMPORTS, routes.facts, read_back, call, KERAS_BACKEND=backend)
    return backend


def read(folder, backend, name, variant, route):
    with np.load(folder / f"{name}-{variant}{route}.{backend}.npz") as file:
        return dict(file)


# Files


@every_file
def test_weights_come_back_bit_for_bit(name, variant, route, folder, expected, read_on):
    again, before = read(folder, read_on, name, variant, route), expected[name, variant]
    # Under LoRA a file holds the sum, so only the kernel as it is used comes back: `head`.
    keys = ["head"] if variant == "lora" else before.keys() - {"outputs"}
    assert variant == "lora" or again.keys() == before.keys()
    for key in keys:
        np.testing.assert_array_equal(again[key], before[key], err_msg=key)


@every_file
def test_outputs_come_back(name, variant, route, folder, expected, read_on):
    again = read(folder, read_on, name, variant, route)["outputs"]
    before = expected[name, variant]["outputs"]
    label = f"{variant} {route} on {read_on}"
    if read_on == BACKEND:
        routes.record(label, name, again, before)
    elif variant in OUTPUT_BANDS:
        routes.record(label, name, again, before, OUTPUT_BANDS[variant])
    else:
        assert np.isfinite(again).all()


@every_file
def test_the_config_comes_back(name, variant, route, folder, read_on):
    path = folder / f"{name}-{variant}{route}"
    written = json.loads((folder / f"{name}-{variant}.json").read_text())
    again = json.loads(path.with_name(f"{path.name}.config.json").read_text())
    assert again["config"] == written["config"]
    assert '"keras_he>Kaiming' in json.dumps(again)


# The bands can fail


@every_model
def test_another_seed_is_out_of_every_band(name, expected):
    stranger = routes.facts(routes.model(name, first_seed=50), routes.batch())["outputs"]
    outputs = expected[name, "float32"]["outputs"]
    bands = (FLOAT32, INT8, *OUTPUT_BANDS.values())
    assert routes.difference(stranger, outputs) > max(bands) * routes.scale(outputs)


@every_model
def test_weights_of_half_precision_are_out_of_the_band_of_float32(name, expected):
    rounded = keras.models.clone_model(routes.model(name))
    weights = [value.astype("float16") for value in routes.model(name).get_weights()]
    rounded.set_weights(weights)
    outputs = expected[name, "float32"]["outputs"]
    far = routes.difference(routes.facts(rounded, routes.batch())["outputs"], outputs)
    assert far > FLOAT32 * routes.scale(outputs)


def test_the_document_says_the_bands():
    document = (Path(__file__).resolve().parents[2] / "docs" / "routes.md").read_text("utf-8")
    bands = (FLOAT32, ROUNDED["mixed_float16"], ROUNDED["bfloat16"], INT8)
    assert re.findall(r"\b\d\.\de-\d\d\b", document) == [f"{band:.1e}" for band in bands]


# Clones and JSON


def cloned(model):
    return keras.models.clone_model(model)


def from_json(model):
    return keras.models.model_from_json(model.to_json())


def weights(model, *, seeded):
    """Returns the weights by path, of an initialized model those whose config has their seed."""
    without = ("attention", "embedding") if seeded else ()
    return {
        weight.path: keras.ops.convert_to_numpy(weight)
        for weight in model.weights
        if not any(part in weight.path for part in without)
    }


@every_model
@pytest.mark.parametrize("rebuild", [cloned, from_json], ids=["clone_model", "to_json"])
def test_a_rebuilt_model_draws_the_same_weights(name, rebuild):
    model = routes.drawn(name)
    before = weights(model, seeded=name not in LAWS)
    after = weights(rebuild(model), seeded=name not in LAWS)
    assert len(before) == len(after) >= 10
    for (path, one), other in zip(before.items(), after.values(), strict=True):
        routes.record(f"{rebuild.__name__}, weights", name, other, one)
        assert path.endswith("bias") or np.unique(one).size > 1


@every_varied_model
def test_a_clone_of_a_quantized_model_takes_its_weights(name, expected):
    model = routes.model(name, "int8")
    clone = keras.models.clone_model(model)
    assert not any(weight.any() for weight in clone.layers[-1].get_weights()[:2])  # Keras' zeros
    clone.set_weights(model.get_weights())
    again = routes.facts(clone, routes.batch())["outputs"]
    routes.record("int8 clone, weights set", name, again, expected[name, "int8"]["outputs"])


@every_model
def test_a_clone_under_lora_draws_the_same_kernels(name):
    model = routes.drawn(name)
    kernel = keras.ops.convert_to_numpy(model.layers[-1].kernel)
    routes.adapt(model.layers[-1])
    clone = keras.models.clone_model(model).layers[-1]
    assert clone.lora_enabled
    # Its pair is new, and starts at zero.
    routes.record("LoRA clone, head", name, keras.ops.convert_to_numpy(clone.kernel), kernel)


# Quantization and LoRA, before and after


@every_varied_model
def test_int8_stays_within_the_steps_of_its_roundings(name, expected):
    outputs, quantized = (expected[name, one]["outputs"] for one in ("float32", "int8"))
    routes.record("int8 beside float32", name, quantized, outputs, INT8)


@every_model
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_kernel_is_within_its_step(name, mode):
    kernel = keras.ops.convert_to_numpy(routes.model(name).layers[-1].kernel)
    head = routes.model(name, mode).layers[-1]
    zero = keras.ops.convert_to_numpy(head(np.zeros((1, 8), "float32")))
    quantized = keras.ops.convert_to_numpy(head(np.eye(8, dtype="float32"))) - zero
    # Int8 rounds each column to 1/127 of its largest value. Int4 has 15 steps between the least and
    # the largest one, and rounds the place of zero among them too.
    if mode == "int8":
        band = np.abs(kernel).max(axis=0) / 127 / 2
    else:
        band = np.maximum(kernel, 0).max(axis=0) - np.minimum(kernel, 0).min(axis=0)
        band = band / 15
    band = band * 1.001 + 1e-6  # the kernel is read as a difference of outputs
    other = keras.ops.convert_to_numpy(routes.model(name, first_seed=50).layers[-1].kernel)
    assert (np.abs(quantized - kernel) <= band).all()
    assert not (np.abs(quantized - other) <= band).all()


@every_model
def test_lora_starts_from_the_same_outputs(name):
    model = routes.drawn(name)
    before = routes.facts(model, routes.batch())["outputs"]
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            layer.enable_lora(2)
    routes.record("LoRA enabled", name, routes.facts(model, routes.batch())["outputs"], before)


@every_model
@pytest.mark.parametrize("variant", ["int8", "int4", "lora"])
def test_initialize_leaves_what_is_quantized_or_adapted(name, variant):
    model = routes.made(name, variant)
    before = model.get_layer("head").get_weights()
    report = keras_he.initialize(model, routes.batch(), seed=3)
    (row,) = [row for row in report.rows if row.path == "head/kernel"]
    assert row.left == ("LoRA is enabled" if variant == "lora" else f"quantized ({variant})")
    for one, other in zip(before, model.get_layer("head").get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert variant == "int4" or row in report.kernels  # an int4 kernel is packed
    assert any(row.rule == "measured" for row in report.kernels)  # the others are set


@pytest.mark.parametrize("name", ["orthogonal", "initialized"])
@pytest.mark.parametrize("variant", ["int8", "int4", "lora"])
def test_make_portable_finds_the_numbers_of_the_model_as_it_was(name, variant):
    before, after = (
        [one.after.get_config() for one in keras_he.make_portable(routes.made(name, one_of))]
        for one_of in ("float32", variant)
    )
    assert before == after
    assert len(before) >= 8


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_kept(policy):
    model = routes.model("normal", policy)
    assert {layer.dtype_policy.name for layer in model.layers} == {policy}


def quantize(model, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of each layer that it does not quantize
        model.quantize(mode)


def test_quantized_attention_is_read_into_a_model_that_is_quantized_again(tmp_path):
    inputs = keras.Input((6, 8))
    attention = keras.layers.MultiHeadAttention(2, 4, kernel_initializer="he_linear")
    model = keras.Model(inputs, attention(inputs, inputs))
    written = model.to_json()
    quantize(model, "int8")
    model.save(tmp_path / "model.keras")
    again = keras.models.model_from_json(written)
    quantize(again, "int8")
    again.load_weights(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 6, 8)).astype("float32")
    outputs, expected = (keras.ops.convert_to_numpy(one(x)) for one in (again, model))
    np.testing.assert_array_equal(outputs, expected)
    assert expected.std() > 0.01
