"""Writes a version of a model for TensorFlow Serving: BASE/NAME/<integer>/.

    python export_model.py models digits                       # trains on handwritten digits first
    python export_model.py models mine --model mine.keras      # a classifier of yours

A version appears in one step: it is written to another folder, tested, and renamed at the end, so a
server that looks for versions never finds half of one. It holds two signatures, `serving_default`
(probabilities and label) and `features` (the input of the last layer), and a warm-up record, whose
requests the TensorFlow C++ SavedModel loader has run once. `--check FILE.npz` keeps a batch and the
predictions of `model.predict` for client.py.
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

# Both before the import of TensorFlow; oneDNN's notice obeys no log level.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

import keras_he  # noqa: F401 - registers the strings, and the classes that a saved model names

sys.path.append(str(Path(__file__).resolve().parents[1]))
from serve_without_keras import SavedModel, TensorFlowError

DEFAULT = "serving_default"
WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")  # where TensorFlow Serving looks
WARM_UP_SIZES = (1, 32)  # the batches that are expected
NO_SAMPLES = "The batch must have at least one sample."
LAST_VERSION = 2**63 - 1  # the server reads 64 bits


def export(
    model: keras.Model, folder: Path, inputs: dict[str, np.ndarray], version: int | None = None
) -> Path:
    """Writes a version of a classifier, and returns its folder.

    Args:
        model: With any inputs, and one output of shape (None, classes).
        folder: Of the model, BASE/NAME; made if it is missing.
        inputs: A batch by the names of the inputs, `input_names(model)`. Its shapes and types are
            those of the warm-up requests, which are zeros: no data gets into the export.
        version: An integer that is free; None means the next one.

    Raises:
        ValueError: If the model is no such classifier, or the warm-up cannot be run.
        FileExistsError: If the version exists.
    """
    serving = _with_features(model)
    version = free_version(folder, version)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"writing-{version}-{os.getpid()}"  # no number: no server looks at it
    try:
        _write(serving, aside)
        _write_warm_up(aside / WARM_UP, folder.name, inputs)
        _run_warm_up(aside, inputs)
        _to_disk(aside)
        aside.rename(folder / str(version))
        _sync(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder / str(version)


def free_version(folder: Path, version: int | None = None) -> int:
    """Returns a version that is free: the one that is given, or the next one."""
    taken = versions(folder)
    version = max(taken, default=0) + 1 if version is None else version
    if not 0 <= version <= LAST_VERSION:
        raise ValueError(f"`version` must be 0 to {LAST_VERSION}. Received: version={version}")
    if version in taken:
        raise FileExistsError(
            f"`version` must be free. Received: version={version}: {taken[version]}"
        )
    return version


def versions(folder: Path) -> dict[int, Path]:
    """Returns the versions in a model's folder, lowest first; other names are ignored."""
    found = [path for path in folder.glob("*") if path.name.isascii() and path.name.isdecimal()]
    return {int(path.name): path for path in sorted(found, key=lambda path: int(path.name))}


def input_names(model: keras.Model) -> list[str]:
    """Returns the names of a model's inputs, in its order; Keras' own are counted from 0 here."""
    names = [tensor.name for tensor in model.inputs]
    # Keras numbers the tensors of a process, so the same script may give other names tomorrow.
    return [
        f"input_{i}" if re.fullmatch(r"keras_tensor(_\d+)?", name) else name
        for i, name in enumerate(names)
    ]


def _with_features(model: keras.Model) -> keras.Model:
    """Returns the model with the input of its last layer as a second output."""
    if not getattr(model, "outputs", None):
        raise ValueError("`model` must be a built Sequential or a functional model")
    outputs, last = model.outputs, model.layers[-1]
    if len(outputs) == 1 and not _shows(last, outputs[0]):
        # Keras shows the first call of a layer, which may be of another model: here it has one.
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        model, outputs, last = clone, clone.outputs, clone.layers[-1]
    if len(outputs) != 1 or len(outputs[0].shape) != 2 or last.output is not outputs[0]:
        shapes = ", ".join(str(output.shape) for output in outputs)
        raise ValueError(
            "`model` must have one output, of shape (None, classes), that its last layer makes. "
            f"Received: outputs of shape {shapes} from layer {last.name!r}"
        )
    if any(tensor.shape[0] is not None for tensor in model.inputs):
        raise ValueError("`model` must have inputs of any batch size: `shape=`, not `batch_shape=`")
    if any(tensor.dtype == "string" for tensor in model.inputs):
        raise ValueError(
            "`model` must have inputs of numbers: look strings up before you send them"
        )
    if not isinstance(last.input, keras.KerasTensor):
        raise ValueError(f"The last layer of `model` must have one input. Received: {last.name!r}")
    return keras.Model(model.inputs, [outputs[0], last.input])


def _shows(layer: keras.layers.Layer, output: keras.KerasTensor) -> bool:
    """Returns whether this output is the one that a layer shows."""
    try:
        return layer.output is output
    except (AttributeError, ValueError):  # it has several, or none
        return False


def _write(serving: keras.Model, path: Path) -> None:
    # The archive finds the variables of its functions by itself; `archive.track(model)` would write
    # each of them twice.
    archive = keras.export.ExportArchive()
    names = input_names(serving)
    signature = [
        keras.InputSpec(shape=tensor.shape, dtype=_served(tensor.dtype), name=name)
        for tensor, name in zip(serving.inputs, names, strict=True)
    ]

    def outputs(*arrays: tf.Tensor) -> list[tf.Tensor]:
        # Without it a tensor of wrong rank reaches kernels that end the server's process.
        arrays = [tf.ensure_shape(a, t.shape) for a, t in zip(arrays, serving.inputs, strict=True)]
        # With oneDNN, TensorFlow's default, convolutions refuse a batch of 0 with a puzzling error.
        checks = [tf.debugging.assert_positive(tf.shape(a)[:1], NO_SAMPLES) for a in arrays]
        with tf.control_dependencies(checks):
            arrays = [tf.identity(a) for a in arrays]
        return [keras.ops.cast(y, "float32") for y in serving(arrays, training=False)]

    def probabilities_and_label(*arrays: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = outputs(*arrays)[0]
        label = keras.ops.argmax(probabilities, axis=-1)
        return {"probabilities": probabilities, "label": label}

    def features(*arrays: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"features": outputs(*arrays)[1]}

    archive.add_endpoint(DEFAULT, probabilities_and_label, input_signature=signature)
    archive.add_endpoint("features", features, input_signature=signature)
    archive.write_out(path, verbose=False)


def _served(dtype: str) -> str:
    """Returns the type that a client sends: float32 for every float, as bfloat16 is not NumPy's."""
    return "float32" if keras.backend.is_float_dtype(dtype) else dtype


def _warm_up(inputs: dict[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields the signature and the batch, zeros, of each warm-up request."""
    for signature in (DEFAULT, "features"):
        for size in WARM_UP_SIZES:
            yield (
                signature,
                {
                    name: np.zeros((size, *array.shape[1:]), array.dtype)
                    for name, array in inputs.items()
                },
            )


def _write_warm_up(path: Path, name: str, inputs: dict[str, np.ndarray]) -> None:
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, batch in _warm_up(inputs):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            for key, array in batch.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())


def _run_warm_up(path: Path, inputs: dict[str, np.ndarray]) -> None:
    """Loads an export and runs its warm-up requests, as the server does before it serves one."""
    with SavedModel(path) as model:
        for number, (signature, batch) in enumerate(_warm_up(inputs), start=1):
            try:
                model.run(signature, **batch)
            except (TensorFlowError, ValueError) as error:
                raise ValueError(f"warm-up request {number}: {error}") from None


def _to_disk(folder: Path) -> None:
    """Returns when every file is on the disk, so that a crash cannot leave a version half there."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def predictions(model: keras.Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a batch by `inputs/name`, and Keras' predictions for it by `signature/output`."""
    arrays = [inputs[name] for name in input_names(model)]
    probabilities, features = (
        np.asarray(y, "float32")
        # All at once, as a request is run: batches of another size may round in another order.
        for y in _with_features(model).predict(arrays, batch_size=len(arrays[0]), verbose=0)
    )
    return {
        **{f"inputs/{name}": array for name, array in inputs.items()},
        f"{DEFAULT}/probabilities": probabilities,
        f"{DEFAULT}/label": probabilities.argmax(axis=-1).astype("int32"),
        "features/features": features,
    }


def trained_on_digits() -> tuple[keras.Model, dict[str, np.ndarray]]:
    """Returns a small network, trained for a few seconds, and digits that it has not seen."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    keras.utils.set_random_seed(0)
    data = load_digits()
    images = data.images[..., np.newaxis].astype("float32") / 8  # 0 to 16, mean square near 1 now
    seen, new, digits, new_digits = train_test_split(images, data.target, random_state=0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, activation="relu", kernel_initializer="he_linear"),
            layers.Conv2D(32, 3, activation="relu", kernel_initializer="he_relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", kernel_initializer="he_relu"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(seen, digits, epochs=3, verbose=0)
    accuracy = model.evaluate(new, new_digits, verbose=0)[1]
    print(f"Trained on {len(seen)} digits; of {len(new)} new ones {accuracy:.1%} are read right.")
    return model, {"image": new}


def some_inputs(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns 8 samples of normal numbers, and of zeros for inputs that are no floats."""
    random, inputs = np.random.default_rng(0), {}
    for name, tensor in zip(input_names(model), model.inputs, strict=True):
        shape = (8, *tensor.shape[1:])
        if None in shape:
            raise ValueError(f"Input {name!r} has any size: {tensor.shape}. Give --inputs FILE.npz")
        dtype = _served(tensor.dtype)
        array = random.normal(size=shape) if dtype == "float32" else np.zeros(shape)
        inputs[name] = array.astype(dtype)
    return inputs


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", type=Path, help="folder of all models")
    parser.add_argument("name", help="of the model, as clients call it")
    parser.add_argument("--model", type=Path, help="a .keras file (default: train on digits)")
    parser.add_argument("--inputs", type=Path, help="with --model: a batch, .npz by input name")
    parser.add_argument("--version", type=int, help="default: the next one")
    parser.add_argument("--check", type=Path, help="where to write a batch and its predictions")
    given = parser.parse_args()
    if given.inputs and not given.model:
        parser.error("--inputs needs --model")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", given.name):
        parser.error(f"name must be of letters, digits and _ . - Received: {given.name}")
    return given


def main() -> None:
    given = arguments()
    if keras.backend.backend() != "tensorflow":
        sys.exit("TensorFlow Serving's exports need KERAS_BACKEND=tensorflow.")
    folder = given.base / given.name
    try:
        version = free_version(folder, given.version)  # before anything that takes long
        if given.model:
            model = keras.saving.load_model(given.model, compile=False)
            inputs = dict(np.load(given.inputs)) if given.inputs else some_inputs(model)
        else:
            model, inputs = trained_on_digits()
        path = export(model, folder, inputs, version)
        if given.check:
            np.savez(given.check, **predictions(model, inputs))
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
    print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
