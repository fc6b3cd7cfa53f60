"""examples/serving writes versions that TensorFlow Serving takes: whole, checked, without Keras."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import serving_example
from serving_example import OUTPUTS, ROOT, SERVING, code, small_model, table, zeros

pytestmark = [*serving_example.MARKS, pytest.mark.slow]
DTYPES = (
    *("float16", "float32", "float64", "bool", "uint8", "uint16", "uint32", "uint64"),
    *("int8", "int16", "int32", "int64"),
)


def warm_up_of(path):
    return path / "assets.extra" / "tf_serving_warmup_requests"


# The export


def test_the_script_prints_what_the_readme_shows(exported):
    said, shown = exported.said.splitlines(), serving_example.shown("export_model.py")
    accuracy = re.compile(r"\d+\.\d%")  # the last digit of training differs between processors
    assert [accuracy.sub("", line) for line in said] == [accuracy.sub("", line) for line in shown]


def test_the_readme_makes_a_request_for_rest(exported):
    arguments = shlex.split(serving_example.command("> request.json").partition(" > ")[0])[1:]
    folder = exported.check.parent
    made = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=True)
    instances = json.loads(made.stdout)["instances"]
    np.testing.assert_array_equal(instances, exported.arrays["inputs/image"][:2])


def test_the_export_has_the_files_that_the_document_tells(exported):
    files = {str(p.relative_to(exported.path)) for p in exported.path.rglob("*") if p.is_file()}
    told = {code(row["file"]) for row in table("In the export")[:3]}
    assert told == {"saved_model.pb", "variables/", "assets.extra/tf_serving_warmup_requests"}
    assert files == {
        *("saved_model.pb", "fingerprint.pb", "assets.extra/tf_serving_warmup_requests"),
        *("variables/variables.index", "variables/variables.data-00000-of-00001"),
    }


def test_the_signatures_are_those_that_the_document_tells(exported, scripts):
    with scripts.servable.SavedModel(exported.path) as model:
        found = {
            (name, kind, f"`{key}`: {tensor.dtype} ({', '.join(map(str, tensor.shape))})")
            for name, signature in model.signatures.items()
            for kind, tensors in zip(("input", "output"), signature, strict=True)
            for key, tensor in tensors.items()
        }
    told = {
        (code(row["signature"]), kind, row[kind])
        for row in table("In the export", 1)
        for kind in ("input", "output")
        if row[kind]
    }
    assert found == told
    assert {
        name: {f.split("`")[1] for n, k, f in found if (n, k) == (name, "output")}
        for name, _, _ in found
    } == OUTPUTS


def test_every_weight_is_in_the_export_once_and_no_optimizer(exported):
    import tensorflow as tf

    path = str(exported.path / "variables" / "variables")
    weights = [(name, shape) for name, shape in tf.train.list_variables(path) if shape]
    # Of 2 convolutions and a dense layer; Adam would add two for each.
    shapes = [(3, 3, 1, 16), (16,), (3, 3, 16, 32), (32,), (512, 10), (10,)]
    assert sorted(tuple(shape) for _, shape in weights) == sorted(shapes)
    size = (exported.path / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert size < 4 * sum(map(np.prod, shapes)) * 1.2


def test_the_export_names_neither_the_package_nor_this_machine(exported):
    words = ("keras_he", "Kaiming", "he_linear", "he_relu", str(ROOT), str(Path.home()))
    words += (str(exported.base), sys.prefix, "adam")
    for file in filter(Path.is_file, exported.path.rglob("*")):
        content = file.read_bytes()
        assert [word for word in words if word.encode() in content] == [], file.name


LOADED = """
import sys
import numpy as np
sys.path.insert(0, {scripts!r})
import serve_without_keras as server

server.block_imports()
for name in ("keras", "keras_he", "tensorflow", "tensorflow.python"):
    try:
        __import__(name)
    except ImportError:
        print(name)
batch = dict(np.load({check!r}))
with server.SavedModel({export!r}) as model:
    answers = {{}}
    for signature in model.signatures:
        for name, array in model.run(signature, image=batch["inputs/image"]).items():
            answers[f"{{signature}}/{{name}}"] = array
np.savez("answers.npz", **answers)
print(__import__("os").getcwd())
"""


def test_both_signatures_run_without_keras_bit_for_bit(exported, run_python):
    script = LOADED.format(
        scripts=str(SERVING.parent), check=str(exported.check), export=str(exported.path)
    )
    *blocked, folder = run_python(script, TF_ENABLE_ONEDNN_OPTS="0").splitlines()
    assert blocked == ["keras", "keras_he", "tensorflow", "tensorflow.python"]
    answers = dict(np.load(Path(folder) / "answers.npz"))
    assert {f"{s}/{name}" for s, names in OUTPUTS.items() for name in names} == answers.keys()
    for name, served in answers.items():
        np.testing.assert_array_equal(served, exported.arrays[name])
        assert served.std() > 0.01, "a constant output would prove nothing"


UNCHECKED = """
import sys
import numpy as np
sys.path.insert(0, {scripts!r})
import serve_without_keras as server

server.block_imports()
with server.SavedModel({export!r}) as model:
    for signature in model.signatures.values():
        signature.inputs["image"] = signature.inputs["image"]._replace(shape=None)
    for signature in model.signatures:
        for shape in [(2, 8, 8), (2, 8, 7, 1), (64,), (), (1, 2, 8, 8, 1)]:
            try:
                model.run(signature, image=np.zeros(shape, "float32"))
            except server.TensorFlowError as error:
                print(error.code, "is not compatible with expected shape [?,8,8,1]" in str(error))
        try:
            model.run(signature, image=np.zeros((0, 8, 8, 1), "float32"))
        except server.TensorFlowError as error:
            print(error.code, "The batch must have at least one sample." in str(error))
    inputs = model.signatures["features"].inputs
    inputs["image"] = inputs["image"]._replace(dtype="float64")
    try:
        model.run("features", image=np.zeros((2, 8, 8, 1)))
    except server.TensorFlowError as error:
        print(error.code, "to be float but double is provided" in str(error))
"""


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_the_graph_itself_refuses_wrong_shapes_and_types(onednn, exported, run_python):
    script = UNCHECKED.format(scripts=str(SERVING.parent), export=str(exported.path))
    # Without the check in the graph this process is aborted.
    printed = run_python(script, TF_ENABLE_ONEDNN_OPTS=onednn)
    assert printed.split("\n") == 13 * ["3 True"] + [""]


# Versions


STEPS = {
    "graph": "_write",
    "warm-up": "_write_warm_up",
    "trial": "_run_warm_up",
    "disk": "_to_disk",
}


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_export_leaves_nothing_behind(step, scripts, monkeypatch, tmp_path):
    module, name = scripts.export_model, STEPS[step]
    original, seen = getattr(module, name), []

    def interrupted(*arguments):
        original(*arguments)
        seen.append([path.name for path in tmp_path.iterdir()])
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, interrupted)
    if step != "graph":  # the graph of version 1 will do for the other steps
        monkeypatch.setattr(module, "_write", once_written(module))
    with pytest.raises(KeyboardInterrupt):
        module.export(small_model(), tmp_path, zeros(1, 8, 8, 1))
    assert seen == [[f"writing-1-{os.getpid()}"]]  # what a server would see: no number
    assert list(tmp_path.iterdir()) == []


WRITTEN = {}


def once_written(module):
    """Returns a `_write` that copies what the true one wrote the first time."""
    original = module._write

    def write(serving, path):
        if "graph" not in WRITTEN:
            original(serving, path)
            WRITTEN["graph"] = {
                file.relative_to(path): file.read_bytes()
                for file in path.rglob("*")
                if file.is_file()
            }
            return
        for name, content in WRITTEN["graph"].items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)

    return write


def test_who_polls_the_folder_sees_whole_versions_only(scripts, tmp_path):
    seen, over = {}, threading.Event()

    def poll():
        last = False
        while not last:
            last = over.is_set()  # so there is a look after the end too
            for version, path in scripts.servable.versions(tmp_path).items():
                seen.setdefault(version, {p: p.stat().st_size for p in path.rglob("*")})

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        path = scripts.export_model.export(small_model(), tmp_path, zeros(1, 8, 8, 1))
        over.set()
        polling.result()
    whole = {p: p.stat().st_size for p in path.rglob("*")}
    assert seen == {1: whole}
    assert len(whole) >= 5


def fake_versions(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)


def test_versions_are_integers_and_the_next_is_one_higher(scripts, monkeypatch, tmp_path):
    module = scripts.export_model
    monkeypatch.setattr(module, "_write", once_written(module))
    fake_versions(tmp_path, "007", "9", "writing-11-1", "v12", "-13", "1.5", "²")
    assert [*scripts.servable.versions(tmp_path)] == [7, 9]
    batch = zeros(1, 8, 8, 1)
    assert module.export(small_model(), tmp_path, batch).name == "10"
    assert module.export(small_model(), tmp_path, batch, version=3).name == "3"
    assert [*scripts.servable.versions(tmp_path)] == [3, 7, 9, 10]


def test_an_existing_version_is_refused_and_left(scripts, tmp_path):
    fake_versions(tmp_path, "007")
    with pytest.raises(
        FileExistsError, match=r"`version` must be free. Received: version=7: .*007"
    ):
        scripts.export_model.export(small_model(), tmp_path, zeros(1, 8, 8, 1), version=7)
    assert [path.name for path in tmp_path.rglob("*")] == ["007"]


def two_outputs():
    image = keras.Input((4,))
    return keras.Model(image, [keras.layers.Dense(2)(image), keras.layers.Dense(3)(image)])


def strings():
    words = keras.Input((1,), dtype="string")
    numbers = keras.layers.StringLookup(vocabulary=["a"], output_mode="multi_hot")(words)
    return keras.Model(words, keras.layers.Dense(2)(numbers))


class Subclassed(keras.Model):
    def call(self, x):
        return x


CLASSIFIER = "`model` must have one output, of shape (None, classes), that its last layer makes."
REFUSED = {
    "two outputs": (
        two_outputs,
        {},
        f"{CLASSIFIER} Received: outputs of shape (None, 2), (None, 3)",
    ),
    "no class axis": (
        lambda: keras.Sequential([keras.Input((4, 4)), keras.layers.Dense(2)]),
        {},
        f"{CLASSIFIER} Received: outputs of shape (None, 4, 2)",
    ),
    "fixed batch": (
        lambda: keras.Sequential([keras.Input(batch_shape=(4, 3)), keras.layers.Dense(2)]),
        {},
        "must have inputs of any batch size",
    ),
    "subclassed": (Subclassed, {}, "must be a built Sequential or a functional model"),
    "not built": (lambda: keras.Sequential([keras.layers.Dense(2)]), {}, "must be a built Seq"),
    "strings": (strings, {}, "must have inputs of numbers: look strings up"),
    "negative": (small_model, {"version": -1}, "`version` must be 0 to 9223372036854775807."),
    "too large": (small_model, {"version": 2**63}, "`version` must be 0 to 9223372036854775807."),
    "other inputs": (
        small_model,
        {"inputs": {"picture": np.zeros((1, 8, 8, 1), "float32")}},
        "warm-up request 1: `inputs` must be image. Received: inputs=picture",
    ),
    "other type": (
        small_model,
        {"inputs": {"image": np.zeros((1, 8, 8, 1))}},
        "warm-up request 1: `image` must be float32",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    case, scripts, monkeypatch, tmp_path
):
    build, arguments, message = REFUSED[case]
    if case.startswith("other"):
        monkeypatch.setattr(scripts.export_model, "_write", once_written(scripts.export_model))
    arguments = {"inputs": zeros(1, 8, 8, 1), **arguments}
    with pytest.raises(ValueError, match=re.escape(message)):
        scripts.export_model.export(build(), tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def two_inputs():
    words = keras.Input((6,), dtype="int32", name="words")
    numbers = keras.Input((4,))  # without a name
    x = keras.layers.Embedding(20, 8, embeddings_initializer="he_linear_fan_out")(words)
    x = keras.layers.concatenate([keras.layers.GlobalAveragePooling1D()(x), numbers])
    return keras.Model([numbers, words], keras.layers.Dense(3, "softmax")(x))


def mixed_precision():
    policy = keras.DTypePolicy("mixed_bfloat16")
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(4, 3, kernel_initializer="he_linear", dtype=policy),
            keras.layers.Flatten(),
            keras.layers.Dense(5, "softmax", kernel_initializer="he_relu", dtype=policy),
        ]
    )


def clone_that_was_built_again():
    """Its last layer was called twice, and shows what it gave the first time."""
    clone = keras.models.clone_model(small_model())
    clone.build((None, 8, 8, 1))
    return clone


def layers_of_two_models():
    """Its last layer is of another model too, which called it first."""
    first = small_model()
    image = keras.Input((8, 8, 1), name="image")
    last = first.layers[-1](keras.layers.Flatten()(image) * 2.0)
    return keras.Model(image, last)


def another_width():
    """Its last layer, without weights, gave another model's outputs first."""
    last = keras.layers.Softmax()
    keras.Sequential([keras.Input((3,)), last])
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Dense(4, kernel_initializer="he_linear")(keras.layers.Flatten()(image))
    return keras.Model(image, last(x))


BUILDS = {
    "another width": another_width,
    "inputs": two_inputs,
    "bfloat16": mixed_precision,
    "built again": clone_that_was_built_again,
    "shared": layers_of_two_models,
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_a_classifier_of_any_inputs_and_precision_is_served(build, scripts, tmp_path):
    module, model = scripts.export_model, build()
    inputs = module.some_inputs(model)
    assert {*inputs} == ({"input_0", "words"} if build is two_inputs else {"image"})
    expected = module.predictions(model, inputs)
    with scripts.servable.Servable(module.export(model, tmp_path, inputs)) as servable:
        for signature, outputs in OUTPUTS.items():
            response = servable.predict(scripts.client.request_of("m", signature, inputs))
            assert response.outputs.keys() == outputs
            for name in outputs:
                served = scripts.protocol.array_of(response.outputs[name])
                assert served.dtype == ("int32" if name == "label" else "float32")
                # The same kernels of the same library on the same batch: equal to the last bit.
                np.testing.assert_array_equal(served, expected[f"{signature}/{name}"])


def run_main(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_the_script_takes_the_model_that_the_document_saves(scripts, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(
        r"^```python\n(.*?)^```$", serving_example.DOCUMENT, flags=re.DOTALL | re.MULTILINE
    )
    exec(block, {})
    assert "export_model.py models mine --model mine.keras" in block
    run_main(scripts.export_model, monkeypatch, *"models mine --model mine.keras".split())
    assert capsys.readouterr().out == "Wrote models/mine/1.\n"
    assert Path("models/mine/1/saved_model.pb").exists()


def test_the_script_is_for_the_tensorflow_backend(scripts, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(SystemExit, match="need KERAS_BACKEND=tensorflow"):
        run_main(scripts.export_model, monkeypatch, "models", "digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("models a/b", "name must be of letters, digits and _ . - Received: a/b"),
        ("models digits --inputs x.npz", "--inputs needs --model"),
        ("models digits --version -1", "`version` must be 0 to"),
        ("models digits --model no.keras", "no.keras"),
        ("models digits --model any.keras", "has any size: (None, None, 3). Give --inputs"),
    ],
    ids=["name", "inputs", "version", "missing", "any size"],
)
def test_the_script_says_what_it_cannot_do(
    arguments, message, scripts, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    if "any.keras" in arguments:
        pooled = keras.layers.GlobalAveragePooling1D()
        keras.Sequential([keras.Input((None, 3), name="x"), pooled]).save("any.keras")
    with pytest.raises(SystemExit) as end:
        run_main(scripts.export_model, monkeypatch, *arguments.split())
    assert message in f"{end.value}{capsys.readouterr().err}"
    assert not Path("models").exists()


# Messages


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (2, 0), (2, 3)], ids=str)
def test_tensors_are_those_of_tensorflow(dtype, shape, scripts):
    import tensorflow as tf

    array = (np.arange(np.prod(shape, dtype=int)).reshape(shape) + 1).astype(dtype)
    arrays = [scripts.protocol.array_of(tf.make_tensor_proto(array))]
    for single_values in (False, True):
        tensor = scripts.protocol.tensor_of(array, single_values)
        arrays += [tf.make_ndarray(tensor), scripts.protocol.array_of(tensor)]
    for made in arrays:
        assert (made.dtype, made.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(made, array)


@pytest.mark.parametrize("values", [[], [7.0], [7.0, 8.0], [*range(8)]], ids=len)
def test_values_are_filled_in_or_dropped_as_tensorflow_does(values, scripts):
    import tensorflow as tf

    tensor = tf.make_tensor_proto(np.zeros((2, 3), "float32"))
    tensor.tensor_content = b""
    tensor.float_val.extend(values)
    expected = tf.io.parse_tensor(tensor.SerializeToString(), "float32").numpy()
    np.testing.assert_array_equal(scripts.protocol.array_of(tensor), expected)


# The warm-up


def test_the_warm_up_is_read_by_tensorflow_and_the_real_messages(exported, scripts):
    import tensorflow as tf

    path = warm_up_of(exported.path)
    logs = [log.numpy() for log in tf.data.TFRecordDataset(str(path))]
    assert logs == [*scripts.protocol.records(path)]
    requests = [
        scripts.protocol.prediction_log_pb2.PredictionLog.FromString(log).predict_log.request
        for log in logs
    ]
    found = [
        (r.model_spec.name, r.model_spec.signature_name, tf.make_ndarray(r.inputs["image"]))
        for r in requests
    ]
    assert [(name, signature, image.shape) for name, signature, image in found] == [
        ("digits", signature, (size, 8, 8, 1)) for signature in OUTPUTS for size in (1, 32)
    ]
    assert not any(image.any() for _, _, image in found)  # no data


def cut(content):
    return content[:-1]


def flipped(content):
    return content[:40] + bytes([content[40] ^ 1]) + content[41:]


@pytest.mark.parametrize(
    ("change", "message"),
    [(cut, "is no TFRecord file, or is damaged"), (flipped, "is no TFRecord file, or is damaged")],
    ids=["cut", "flipped"],
)
def test_a_damaged_warm_up_is_refused(change, message, exported, scripts, tmp_path):
    path = tmp_path / "1"
    shutil.copytree(exported.path, path)
    warm_up_of(path).write_bytes(change(warm_up_of(path).read_bytes()))
    with pytest.raises(ValueError, match=message):
        scripts.servable.Servable(path)


def test_a_warm_up_that_the_model_refuses_is_named(exported, scripts, tmp_path):
    path = tmp_path / "1"
    shutil.copytree(exported.path, path)
    shutil.rmtree(warm_up_of(path).parent)
    scripts.export_model._write_warm_up(warm_up_of(path), "digits", zeros(1, 8, 7, 1))
    with pytest.raises(ValueError, match=r"warm-up request 1: `image` must be float32 of shape"):
        scripts.servable.Servable(path)


def test_a_failure_of_tensorflow_keeps_its_code(scripts, tmp_path):
    import tensorflow as tf

    divide = tf.function(lambda x: 1 // x, input_signature=[tf.TensorSpec([], "int32", name="x")])
    tf.saved_model.save(tf.Module(), tmp_path, signatures=divide.get_concrete_function())
    request = scripts.client.request_of("m", "serving_default", {"x": np.int32(0)})
    with (
        scripts.servable.Servable(tmp_path) as servable,
        pytest.raises(scripts.servable.Refusal, match="Integer division by zero") as refusal,
    ):
        servable.predict(request)
    assert refusal.value.code == 3  # INVALID_ARGUMENT
