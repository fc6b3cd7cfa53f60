"""Exports run without Keras and keras_he, and say nothing of either; `SavedModel` of the example.

"Run" means: loaded and run by the TensorFlow C++ SavedModel loader that TensorFlow Serving uses,
in a process in which keras, keras_he and TensorFlow's Python cannot be imported.
"""

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest

import keras_he

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="SavedModels are TensorFlow's"
)

ROOT = Path(__file__).resolve().parents[2]
SERVE = ROOT / "examples" / "serve_without_keras.py"
MODELS = ("one_input", "two_inputs")
DTYPES = (
    *("float16", "float32", "float64", "bool", "uint8", "uint16", "uint32", "uint64"),
    *("int8", "int16", "int32", "int64"),
)
CLIENT = f"""
import sys
import numpy as np
sys.path.insert(0, {str(SERVE.parent)!r})
import serve_without_keras as server

export, inputs, outputs = {{paths}}
server.block_imports()
for name in ("keras", "keras.layers", "keras_he", "tensorflow", "tensorflow.python"):
    try:
        __import__(name)
    except ImportError:
        print(name)
with server.SavedModel(export) as model:
    np.savez(outputs, **model.run(**np.load(inputs)))
"""


@pytest.fixture(scope="module")
def server():
    """Returns the example as a module; `examples` is no package."""
    spec = importlib.util.spec_from_file_location("serve_without_keras", SERVE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_input():
    layers = keras.layers
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, kernel_initializer="he_linear")(inputs)
    slope = keras.initializers.Constant(0.25)
    x = layers.PReLU(alpha_initializer=slope, shared_axes=[1, 2])(x)
    x = layers.Conv2D(16, 3, activation="relu", kernel_initializer="he_prelu")(x)
    x = layers.DepthwiseConv2D(
        3, padding="same", activation="relu", depthwise_initializer="he_relu_depthwise"
    )(x)
    x = layers.Reshape((25, 16))(x)
    x = layers.MultiHeadAttention(2, 8, kernel_initializer="he_linear")(x, x)
    x = layers.LSTM(
        12,
        kernel_initializer=keras_he.KaimingNormal("linear", gates=4),
        recurrent_initializer=keras_he.KaimingOrthogonal("tanh", gates=4),
    )(x)
    x = layers.Dense(10, kernel_initializer=keras_he.KaimingOrthogonal("tanh"))(x)
    return keras.Model(inputs, x)


def two_inputs():
    layers = keras.layers
    words = keras.Input((6,), dtype="int32", name="words")
    numbers = keras.Input((4,), name="numbers")
    x = layers.Embedding(20, 8, embeddings_initializer="he_linear_fan_out")(words)
    x = layers.GRU(8, kernel_initializer=keras_he.KaimingUniform("linear", gates=3))(x)
    y = layers.Dense(8, activation="gelu", kernel_initializer="kaiming_uniform")(numbers)
    x = layers.concatenate([x, y])
    score = layers.Dense(1, kernel_initializer="he_gelu_truncated", name="score")(x)
    label = layers.Dense(3, kernel_initializer="he_gelu_orthogonal", name="label")(x)
    return keras.Model({"words": words, "numbers": numbers}, {"score": score, "label": label})


class Export(NamedTuple):
    model: keras.Model
    path: Path
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Returns every model with its export, a batch, and what `model.predict` makes of it."""
    random = np.random.default_rng(0)
    image = random.normal(size=(32, 16, 16, 3)).astype("float32")
    words = random.integers(20, size=(32, 6), dtype="int32")
    numbers = random.normal(size=(32, 4)).astype("float32")
    batches = {"one_input": {"image": image}, "two_inputs": {"words": words, "numbers": numbers}}
    made = {}
    for build in (one_input, two_inputs):
        keras.utils.set_random_seed(0)
        name, model = build.__name__, build()
        path = tmp_path_factory.mktemp("exports") / name
        model.export(path, verbose=False)
        inputs = batches[name]
        outputs = model.predict(image if name == "one_input" else inputs, verbose=0)
        outputs = {"output_0": outputs} if name == "one_input" else outputs
        made[name] = Export(model, path, inputs, outputs)
    return made


@pytest.fixture(scope="module")
def saved(exports, server):
    with server.SavedModel(exports["one_input"].path) as model:
        yield model


@pytest.mark.parametrize("name", MODELS)
def test_an_export_runs_without_keras_and_keras_he(name, exports, run_python, tmp_path):
    export = exports[name]
    paths = (str(export.path), str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz"))
    np.savez(paths[1], **export.inputs)
    blocked = run_python(CLIENT.format(paths=paths))
    assert blocked.split() == [
        *("keras", "keras.layers", "keras_he", "tensorflow", "tensorflow.python")
    ]
    served = np.load(paths[2])
    assert served.keys() == export.outputs.keys()
    for output, expected in export.outputs.items():
        # The same kernels of the same library on the same batch: equal to the last bit.
        np.testing.assert_array_equal(served[output], expected)
        assert expected.std() > 0.01, "a constant output would prove nothing"


def test_the_command_line_runs_an_export(exports, tmp_path):
    export = exports["one_input"]
    np.save(tmp_path / "in.npy", export.inputs["image"])
    command = [sys.executable, SERVE, export.path, "in.npy", "out.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "keras, keras_he and TensorFlow's Python are blocked in this process" in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), export.outputs["output_0"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "usage:"), (("{path}", "in.npy", "out.npy"), "several inputs or outputs")],
    ids=["usage", "several"],
)
def test_the_command_line_says_what_it_cannot_do(arguments, message, exports, tmp_path):
    arguments = [argument.format(path=exports["two_inputs"].path) for argument in arguments]
    command = [sys.executable, SERVE, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize("name", MODELS)
def test_an_export_names_neither_the_package_nor_this_machine(name, exports):
    export = exports[name]
    assert "keras_he" in export.model.to_json()  # so there was a name to leave out
    words = ("keras_he", "Kaiming", "he_linear", str(ROOT), str(Path.home()), str(export.path))
    for file in filter(Path.is_file, export.path.rglob("*")):
        content = file.read_bytes()
        assert [word for word in words if word.encode() in content] == [], file.name


def test_signatures_say_names_types_and_shapes(exports, server):
    with server.SavedModel(exports["two_inputs"].path) as model:
        inputs, outputs = model.signatures["serving_default"]
    assert {name: tensor[1:] for name, tensor in inputs.items()} == {
        "words": ("int32", (None, 6)),
        "numbers": ("float32", (None, 4)),
    }
    assert {name: tensor[1:] for name, tensor in outputs.items()} == {
        "score": ("float32", (None, 1)),
        "label": ("float32", (None, 3)),
    }


@pytest.fixture(scope="module")
def echo(tmp_path_factory, server):
    """Yields an export that returns its input, with a signature for each element type."""
    import tensorflow as tf

    def identity(dtype):
        return tf.function(tf.identity, input_signature=[tf.TensorSpec(None, dtype, name="x")])

    path = tmp_path_factory.mktemp("echo")
    module = tf.Module()
    module.functions = {dtype: identity(dtype) for dtype in DTYPES}
    tf.saved_model.save(module, path, signatures=module.functions)
    with server.SavedModel(path) as model:
        yield model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)], ids=str)
def test_every_type_and_shape_makes_the_round_trip(dtype, shape, echo):
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype).T  # not contiguous
    (y,) = echo.run(signature=dtype, x=x).values()
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    np.testing.assert_array_equal(y, x)


IMAGE = np.zeros((2, 16, 16, 3), "float32")
REFUSED = {
    "unknown signature": (
        {"signature": "predict", "image": IMAGE},
        "`signature` must be one of serve, serving_default. Received: signature=predict",
    ),
    "unknown input": (
        {"image": IMAGE, "mask": IMAGE},
        "`inputs` must be image. Received: inputs=image, mask",
    ),
    "missing input": ({}, "`inputs` must be image. Received: inputs="),
    "wrong rank": (
        {"image": IMAGE[..., 0]},
        "`image` must be float32 of shape (None, 16, 16, 3), None being any size. "
        "Received: image=float32 of shape (2, 16, 16)",
    ),
    "rank too high": ({"image": IMAGE[None]}, "Received: image=float32 of shape (1, 2, 16, 16, 3)"),
    "wrong size": ({"image": IMAGE[:, :8]}, "Received: image=float32 of shape (2, 8, 16, 3)"),
    "wrong dtype": (
        {"image": IMAGE.astype("float64")},
        "`image` must be float32 of shape (None, 16, 16, 3), None being any size. "
        "Received: image=float64 of shape (2, 16, 16, 3)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_signature_does_not_take_is_refused(case, saved):
    arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        saved.run(**arguments)


def test_a_closed_model_is_refused(exports, server):
    with server.SavedModel(exports["one_input"].path) as model:
        pass
    with pytest.raises(ValueError, match="The model is closed"):
        model.run(image=IMAGE)


def test_a_missing_export_is_named(server, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` must hold saved_model.pb. .*/no$"):
        server.SavedModel(tmp_path / "no")


def test_a_folder_of_versions_gets_a_hint(exports, server):
    path = exports["one_input"].path
    with pytest.raises(FileNotFoundError, match=f"Did you mean {path}[?]"):
        server.SavedModel(path.parent)


def test_an_unknown_tag_gets_the_message_of_tensorflow(exports, server):
    with pytest.raises(RuntimeError, match="supplied tags: { train }"):
        server.SavedModel(exports["one_input"].path, tag="train")


def test_a_failure_of_tensorflow_has_its_message(server, tmp_path):
    import tensorflow as tf

    divide = tf.function(lambda x: 1 // x, input_signature=[tf.TensorSpec([], "int32", name="x")])
    tf.saved_model.save(tf.Module(), tmp_path, signatures=divide.get_concrete_function())
    with (
        server.SavedModel(tmp_path) as model,
        pytest.raises(RuntimeError, match="Integer division by zero"),
    ):
        model.run(x=np.int32(0))


def test_a_type_that_numpy_lacks_is_refused(server, tmp_path):
    import tensorflow as tf

    words = tf.function(tf.identity, input_signature=[tf.TensorSpec([None], "string", name="x")])
    tf.saved_model.save(tf.Module(), tmp_path, signatures=words.get_concrete_function())
    with pytest.raises(ValueError, match="serving_default_x:0 has a type that NumPy lacks"):
        server.SavedModel(tmp_path)


def test_a_missing_wheel_is_named(exports, server, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(FileNotFoundError, match="python -m pip install tensorflow"):
        server.SavedModel(exports["one_input"].path)


def test_imports_are_not_blocked_too_late(server):
    with pytest.raises(RuntimeError, match="Already imported: keras, keras_he, tensorflow"):
        server.block_imports()


class Counted:
    """The C API, with a count of the calls by name."""

    def __init__(self, library):
        self.library, self.calls = library, Counter()

    def __getattr__(self, name):
        def call(*arguments):
            self.calls[name.removeprefix("TF_")] += 1
            return getattr(self.library, name)(*arguments)

        return call


@pytest.mark.parametrize("tag", ["serve", "train"], ids=["success", "failure"])
def test_everything_allocated_is_freed(tag, exports, server, monkeypatch):
    export = exports["two_inputs"]
    counted = Counted(server._tensorflow())
    monkeypatch.setattr(server, "_tensorflow", lambda: counted)
    loads = tag == "serve"
    if loads:
        with server.SavedModel(export.path, tag) as model:
            model.run(**export.inputs)
    else:
        with pytest.raises(RuntimeError, match="supplied tags"):
            server.SavedModel(export.path, tag)
    freed = {name: n for name, n in counted.calls.items() if name.startswith("Delete")}
    once = ("Status", "Graph", "Buffer", "SessionOptions", *(["Session"] if loads else []))
    tensors = {"DeleteTensor": len(export.inputs) + len(export.outputs)} if loads else {}
    assert freed == {f"Delete{kind}": 1 for kind in once} | tensors
