"""Keras' NumPy and OpenVINO backends, which train nothing: what can work does, the rest says so."""

import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_he

NAMES = ("he_prelu", "he_gelu_uniform", "he_tanh_truncated_fan_avg", "he_silu_orthogonal")
DTYPES = ("float16", "bfloat16", "float32", "float64")
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "mish")

CODE = """
import json
import keras, keras_he
import numpy as np

def host(tensor):
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))

def draw(name, dtype):
    return host(keras_he.get({"class_name": name, "config": {"seed": 5}})((3, 3, 8, 4), dtype))

def network():
    return keras.Sequential([
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(16, 3, activation="relu", kernel_initializer="he_linear"),
        keras.layers.DepthwiseConv2D(3, depthwise_initializer="he_relu_depthwise"),
        keras.layers.BatchNormalization(),
        keras.layers.Reshape((16, 16)),
        keras.layers.LSTM(8),
        keras.layers.Dense(4, activation="gelu", kernel_initializer="he_tanh"),
    ])

def built(seed):
    keras.utils.set_random_seed(seed)
    return network()
"""

ON_THE_BACKEND = """
model = built(7)
batch = np.random.default_rng(0).standard_normal((16, 8, 8, 3)).astype("float32")
report = keras_he.initialize(model, batch, seed=3)
gains = [row.gain for row in report.kernels]
try:
    keras_he.audit(model, batch)
except keras_he.KerasHeError as error:
    refused = str(error)
seen = keras_he.audit(model, batch, backward=False)
model.save("model.keras")
again = keras.models.load_model("model.keras")
with keras_he.skip_init():
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
arrays = {f"{name} {dtype}": draw(name, dtype) for name in NAMES for dtype in DTYPES}
np.savez(OUT, **arrays)
print(json.dumps({
    "backend": keras.backend.backend(),
    "gains": [keras_he.gain(name) for name in ACTIVATIONS] + [keras_he.gain(lambda x: x**3)],
    "fans": {name: list(one) for name, one in keras_he.layer_fans(model).items()},
    "measured": gains,
    "rules": [row.rule for row in report.kernels],
    "refused": refused,
    "seen": [row.moments[0] for row in seen.kernels if row.moments],
    "equal": all(
        np.array_equal(one, other) and np.array_equal(one, third)
        for one, other, third in zip(
            model.get_weights(), again.get_weights(), copy.get_weights(), strict=True)
    ),
    "portable": len(keras_he.make_portable(model)),
}))
"""


@pytest.fixture(scope="module", params=["numpy", "openvino"])
def found(request, run_python, tmp_path_factory):
    """Returns what a process on another backend found, and what it drew."""
    if request.param == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("needs openvino")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("one comparison of the other backends with TensorFlow is enough")
    if request.param == "numpy" and importlib.util.find_spec("jax") is None:
        pytest.skip("Keras' NumPy backend needs JAX")
    if request.param not in backends_of_keras():
        pytest.skip(f"this Keras has no {request.param} backend")
    path = tmp_path_factory.mktemp("other") / "draws.npz"
    given = f"NAMES, DTYPES, ACTIVATIONS, OUT = {(NAMES, DTYPES, ACTIVATIONS, str(path))!r}"
    printed = run_python(given, CODE, ON_THE_BACKEND, KERAS_BACKEND=request.param)
    with np.load(path) as file:
        return {**json.loads(printed.splitlines()[-1]), "draws": dict(file)}, request.param


def backends_of_keras():
    """Returns the backends that this Keras brings; nightly builds have no OpenVINO."""
    folder = importlib.util.find_spec("keras.src.backend").submodule_search_locations[0]
    return [one.name for one in Path(folder).iterdir() if one.is_dir()]


@pytest.mark.quick(1)
def test_draws_are_those_of_every_backend(found):
    told, backend = found
    assert told["backend"] == backend
    space = {}
    exec(CODE, space)
    for name in NAMES:
        for dtype in DTYPES:
            drawn = told["draws"][f"{name} {dtype}"]
            assert np.array_equal(drawn, space["draw"](name, dtype)), (name, dtype)


def test_gains_and_fans_are_those_of_every_backend(found):
    told, _ = found
    expected = [keras_he.gain(name) for name in ACTIVATIONS] + [keras_he.gain(lambda x: x**3)]
    assert told["gains"] == pytest.approx(expected, rel=1e-12)
    # Written: 3·3·3 and 3·3·16; 3·3 on each channel; i and u of one gate; 8 and 4.
    assert list(told["fans"].values()) == [
        [27, 144], [9, 9], [16, 8], [8, 8], [8, 4],
    ]  # fmt: skip


def test_a_model_is_initialized_there_too(found):
    told, backend = found
    # On OpenVINO each step of a cell would take too long.
    cell = "analytic" if backend == "openvino" else "measured with its layer"
    rules = ["measured", "measured", cell, "orthogonal per gate", "measured"]
    assert told["rules"] == rules
    space = {}
    exec(CODE, space)
    batch = np.random.default_rng(0).standard_normal((16, 8, 8, 3)).astype("float32")
    here = keras_he.initialize(space["built"](7), batch, seed=3)
    # Sums are taken in another order; gains keep three digits, the last of which may differ by one.
    before = 2 if backend == "openvino" else None  # what precedes the cell
    gains = [row.gain for row in here.kernels]
    assert told["measured"][:before] == pytest.approx(gains[:before], rel=1.1e-2)
    assert told["equal"]
    assert told["portable"] >= 5


def test_the_gradient_is_refused_in_one_sentence_and_the_signal_is_seen(found):
    told, backend = found
    assert f"`backward` must be False on the {backend} backend" in told["refused"]
    assert "`backward=False` looks at the signal alone" in told["refused"]
    assert len(told["seen"]) >= 3
