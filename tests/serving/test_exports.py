"""Exports, each run by what it was made for, in a process without keras_he.

`KERAS_HE_OLD_TENSORFLOW` names folders of older TensorFlow wheels, separated as in `PATH`, each
filled by `pip install --no-deps --target FOLDER tensorflow-cpu==VERSION`. With
`KERAS_HE_NEEDS_EXPORTS=1` a package that an export needs and is not there is a failure.
"""

import importlib.metadata
import importlib.util
import os
import site
import sys
import warnings
from functools import lru_cache
from pathlib import Path

import keras
import numpy as np
import pytest
import routes
from routes import FLOAT32, MODELS, VARIANTS

import keras_he

BACKEND = keras.backend.backend()
ROOT = Path(__file__).resolve().parents[2]
OLD = [one for one in os.environ.get("KERAS_HE_OLD_TENSORFLOW", "").split(os.pathsep) if one]
# What each backend exports; PyTorch's SavedModel and LiteRT, and JAX' others, fail in Keras.
FORMATS = {
    "tensorflow": ("tf_saved_model", "onnx", "openvino", "litert"),
    "jax": ("tf_saved_model",),
    "torch": ("onnx", "openvino"),
}[BACKEND]
ENDINGS = {"tf_saved_model": "", "onnx": ".onnx", "openvino": ".xml", "litert": ".tflite"}
NEEDS = {
    ("tf_saved_model", "jax"): ("tensorflow",),
    ("onnx", "tensorflow"): ("tf2onnx", "onnxruntime"),
    ("onnx", "torch"): ("onnx", "onnxruntime"),
    ("openvino", BACKEND): ("openvino",),
    ("litert", BACKEND): ("ai_edge_litert",),
}
# What of each model is exported: all five, and one of them in every variant.
PLAIN = [(name, "float32") for name in MODELS]
VARIED = [("initialized", variant) for variant in VARIANTS if variant != "float32"]
pytestmark = [pytest.mark.newest, pytest.mark.slow]  # Keras 3.12 has no LiteRT export
every_plain = pytest.mark.parametrize("name", MODELS)
saved_model = pytest.mark.skipif(
    "tf_saved_model" not in FORMATS, reason="Keras cannot export SavedModels from PyTorch"
)
# What a program of JAX is written in grows newer than what TensorFlow reads.
JAX_VERSION = getattr(sys.modules.get("jax"), "__version__", "0.0") if BACKEND == "jax" else "0.0"
saved_model_of_jax = pytest.mark.skipif(
    tuple(int(part) for part in JAX_VERSION.split(".")[:2]) > (0, 10),
    reason=f"TensorFlow 2.21 reads exports of JAX 0.10, and not those of {JAX_VERSION}",
)
# Programs of JAX say where in the sources each operation is from, unless they are told not to.
QUIET = ("jax_traceback_in_locations_limit", 0)

RUN = """
import sys
import numpy as np
sys.path.insert(0, {examples!r})
sys.modules.update(dict.fromkeys({blocked}))  # None in there makes `import` raise
batch = dict(np.load({inputs!r}))
for path in {paths}:
    np.save(path + ".npy", {runner}(path, batch))
"""
FRAMEWORKS = ("keras", "tensorflow", "jax", "torch")


def run_onnx(path, batch):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {one.name: batch[one.name] for one in session.get_inputs()})[0]


def run_openvino(path, batch):
    import openvino

    # Its default may be bfloat16.
    model = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ranks = {
        array.ndim: array for array in batch.values()
    }  # names are lost on the way from PyTorch
    return model({one: ranks[len(one.partial_shape)] for one in model.inputs})[model.outputs[0]]


def run_litert(path, batch):
    from ai_edge_litert.interpreter import Interpreter

    (output,) = Interpreter(path).get_signature_runner()(**batch).values()
    return output


def run_saved_model(path, batch):
    import tensorflow

    model = tensorflow.saved_model.load(path)  # holds the variables
    return tensorflow.cast(model.serve(batch), "float32").numpy()


def run_layer(path, batch):
    import keras

    layer = keras.layers.TFSMLayer(path, call_endpoint="serve")
    return keras.ops.convert_to_numpy(keras.ops.cast(layer(batch), "float32"))


def run_library(path, batch):
    """Runs an export by the C++ library of the TensorFlow that is found first."""
    import ctypes

    import serve_without_keras as server

    version = server._tensorflow().TF_Version
    version.restype = ctypes.c_char_p
    print(version().decode())
    with server.SavedModel(path) as model:
        (output,) = model.run(**batch).values()
    return output


RUNNERS = {"onnx": run_onnx, "openvino": run_openvino, "litert": run_litert}


class Exports:
    """Exports of the models, made when they are first asked for, and a batch beside them."""

    def __init__(self, folder):
        self.folder, self.inputs = folder, folder / "batch.npz"
        np.savez(self.inputs, **routes.batch())

    @staticmethod
    def model(name, variant):
        return routes.front(name) if variant == "front" else routes.model(name, variant)

    @lru_cache  # noqa: B019 - there is one instance
    def outputs(self, name, variant):
        """Returns what `model.predict` makes of the batch."""
        with warnings.catch_warnings():
            # Of float16 and bfloat16, TensorFlow retraces; that is no matter of the model.
            warnings.simplefilter("ignore")
            outputs = self.model(name, variant).predict(routes.batch(), verbose=0)
        return np.asarray(outputs, "float32")

    @lru_cache  # noqa: B019
    def path(self, form, name, variant):
        """Returns the path of an export, as text."""
        self.outputs(name, variant)
        path = str(self.folder / f"{form}-{name}-{variant}{ENDINGS[form]}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # converters warn of their own code
            self.model(name, variant).export(path, format=form, verbose=False)
        return path


def require(form):
    """Skips a test whose packages are not there, or fails it where they have to be."""
    for package in NEEDS.get((form, BACKEND), ()):
        if importlib.util.find_spec(package) is None:
            told = pytest.fail if os.environ.get("KERAS_HE_NEEDS_EXPORTS") else pytest.skip
            told(f"{package} is not installed, which the {form} export needs")


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    if BACKEND != "jax":
        yield Exports(tmp_path_factory.mktemp("exports"))
        return
    import jax

    before = getattr(jax.config, QUIET[0])
    jax.config.update(*QUIET)
    yield Exports(tmp_path_factory.mktemp("exports"))
    jax.config.update(QUIET[0], before)


@pytest.fixture(scope="module")
def run(exports, run_python):
    """Returns a function that runs exports in a fresh process, which may import what it `needs`.

    It returns the outputs, and what the process printed.
    """

    def run(runner, paths, needs=(), **environment):
        code = RUN.format(
            examples=str(ROOT / "examples"),
            blocked=["keras_he", *(one for one in FRAMEWORKS if one not in needs)],
            inputs=str(exports.inputs),
            paths=paths,
            runner=runner.__name__,
        )
        printed = run_python(runner, code, **environment)
        return [np.load(f"{path}.npy") for path in paths], printed.split()

    return run


def assert_outputs(route, exports, given, models, band=0.0):
    """Asserts that outputs are those of `model.predict`, and not another model's."""
    for outputs, (name, variant) in zip(given, models, strict=True):
        expected = exports.outputs(name, variant)
        routes.record(f"{route}, {variant}", name, outputs, expected, band)
        stranger = "normal" if name == "uniform" else "uniform"
        other = exports.outputs(stranger, "front" if variant == "front" else "float32")
        assert routes.difference(outputs, other) > FLOAT32 * routes.scale(other)


# One fresh process for each format


@pytest.mark.parametrize("form", RUNNERS)
def test_an_export_runs_where_no_framework_is(form, exports, run):
    if form not in FORMATS:
        pytest.skip(f"Keras cannot export {form} from {BACKEND}")
    require(form)
    paths = [exports.path(form, *one) for one in PLAIN]
    outputs, _ = run(RUNNERS[form], paths)
    assert_outputs(form, exports, outputs, PLAIN, FLOAT32)


# On TensorFlow the same library runs the same operations: equal to the last bit. A program of
# JAX is compiled by TensorFlow's own compiler.
BAND = 0.0 if BACKEND == "tensorflow" else FLOAT32


@saved_model
@saved_model_of_jax
def test_tensorflow_loads_an_export(exports, run):
    require("tf_saved_model")
    models = [*PLAIN, *(VARIED if BACKEND == "tensorflow" else [])]
    paths = [exports.path("tf_saved_model", *one) for one in models]
    outputs, _ = run(run_saved_model, paths, ["tensorflow"])
    assert_outputs("tf.saved_model.load", exports, outputs, models, BAND)


@saved_model
@saved_model_of_jax
def test_a_layer_holds_an_export(exports, run):
    require("tf_saved_model")
    paths = [exports.path("tf_saved_model", *one) for one in PLAIN]
    outputs, _ = run(run_layer, paths, FRAMEWORKS, KERAS_BACKEND="tensorflow")
    assert_outputs("TFSMLayer", exports, outputs, PLAIN, BAND)


@saved_model
@saved_model_of_jax
@pytest.mark.parametrize("folder", ["", *OLD], ids=["installed", *(Path(one).name for one in OLD)])
def test_a_library_of_tensorflow_runs_an_export(folder, exports, run):
    require("tf_saved_model")
    version = installed_version([folder] if folder else site.getsitepackages())
    if BACKEND == "jax" and version < (2, 20):
        pytest.skip("programs of JAX need TensorFlow 2.20")
    # Up to 2.19 the last bits of tanh and sigmoid are others, which the LSTM uses.
    band = FLOAT32 if version < (2, 20) else BAND
    front = [(name, "front") for name in MODELS] if version < (2, 20) else []
    models = [*PLAIN, *front]
    paths = [exports.path("tf_saved_model", *one) for one in models]
    outputs, printed = run(run_library, paths, **({"PYTHONPATH": folder} if folder else {}))
    assert {tuple(map(int, one.split(".")[:2])) for one in printed} == {version}
    label = "C++ " + ".".join(map(str, version))
    assert_outputs(label, exports, outputs[: len(PLAIN)], PLAIN, band)
    assert_outputs(label, exports, outputs[len(PLAIN) :], front, BAND)


def installed_version(folders):
    """Returns the first two numbers of the TensorFlow that was installed into a folder."""
    distributions = importlib.metadata.distributions(path=list(map(str, folders)))
    (found,) = [
        one
        for one in distributions
        if one.name in ("tensorflow", "tensorflow_cpu", "tensorflow-cpu")
    ]
    return tuple(int(part) for part in found.version.split(".")[:2])


@saved_model
def test_older_libraries_were_given():
    if not OLD:
        pytest.skip("KERAS_HE_OLD_TENSORFLOW names no folder of an older TensorFlow")
    assert all(installed_version([folder]) < (2, 21) for folder in OLD)


# What is in an export


def told(content, exports):
    """Returns what of this machine and of keras_he stands in bytes."""
    machine = (ROOT, Path.home(), Path.cwd(), exports.folder, sys.prefix, *site.getsitepackages())
    words = ("keras_he", "Kaiming", "site-packages", *keras_he.names(), *map(str, machine))
    return {word for word in words if word.encode() in content}


@every_plain
@pytest.mark.parametrize("form", FORMATS)
def test_an_export_names_neither_the_package_nor_this_machine(form, name, exports):
    require(form)
    path = Path(exports.path(form, name, "float32"))
    files = [
        file
        for file in [*path.parent.glob(f"{path.stem}.*"), *path.rglob("*")]
        if file.is_file() and file.suffix != ".npy"
    ]
    assert sum(file.stat().st_size for file in files) > 8000  # two thousand weights
    assert {file.name: told(file.read_bytes(), exports) for file in files} == {
        file.name: set() for file in files
    }


def test_a_name_and_a_path_would_be_seen(exports):
    written = routes.model("normal").to_json() + f"{exports.folder}"
    assert told(written.encode(), exports) >= {"keras_he", "Kaiming", str(exports.folder)}
