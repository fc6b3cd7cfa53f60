"""Model files, for the command line: what kind of file it is, and the model that it holds.

The content decides, not the name. A model under a wrong name, a file of weights and a file of
another program each get an error that says what the file is and what to give instead. Keras is
imported only for a file that holds a model.
"""

import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

from keras_he.backend.keras_private import (
    is_about_code,
    is_about_unknown_classes,
    is_model_archive,
    is_model_hdf5,
    keras_version,
    without_arguments,
)
from keras_he.errors import KerasHeError

_ARCHIVE = (".keras",)
_HDF5 = (".h5", ".hdf5")
_SAVE_WHOLE = (
    "Give the file of a whole model. In Python, build the model, load this file, and call "
    '`model.save("model.keras")`'
)
_FROM_SOURCE = "Give the .keras or .h5 file of the model that it was exported from"
_BY_SUFFIX = {
    ".json": f"holds a config of a model, or an index of files, and no weights. {_SAVE_WHOLE}",
    ".onnx": f"is an ONNX model: a graph without Keras layers. {_FROM_SOURCE}",
    ".tflite": f"is a LiteRT model: a graph without Keras layers. {_FROM_SOURCE}",
    ".pb": f"is a TensorFlow graph without Keras layers. {_FROM_SOURCE}",
    ".index": f"is a TensorFlow checkpoint, which holds weights only. {_SAVE_WHOLE}",
    ".ckpt": f"is a checkpoint, which holds weights only. {_SAVE_WHOLE}",
    ".safetensors": f"holds weights only. {_SAVE_WHOLE}",
    ".pt": f"is a PyTorch file. {_SAVE_WHOLE}",
    ".pth": f"is a PyTorch file. {_SAVE_WHOLE}",
}


class Refusal(KerasHeError):
    """The command cannot be executed; the message is one line."""


def check_is_model(path: Path) -> None:
    """Refuses a path that is not the file of a whole model: says what it is, and what to give."""
    problem = _folder_problem(path) if path.is_dir() else _file_problem(path)
    if problem:
        raise Refusal(f"{path} {problem}")


def _folder_problem(path: Path) -> str:
    held = {one.name for one in path.iterdir()}
    if "saved_model.pb" in held or any(path.glob("*/saved_model.pb")):
        return f"is a SavedModel folder: graphs for serving, without Keras layers. {_FROM_SOURCE}"
    if "checkpoint" in held or any(name.endswith(".index") for name in held):
        return f"is a folder of TensorFlow checkpoints, which hold weights only. {_SAVE_WHOLE}"
    if {"_METADATA", "_CHECKPOINT_METADATA"} & held:
        return f"is an Orbax checkpoint, which holds weights only. {_SAVE_WHOLE}"
    if "config.json" in held:
        return (
            "is the folder of a KerasHub preset, or an unpacked .keras file. Load it in Python, "
            'call `model.save("model.keras")`, and give that file'
        )
    return "is a folder. Give a .keras or .h5 file"


def _file_problem(path: Path) -> str:
    """Returns what is wrong with a file; nothing if it holds a whole model under the right name."""
    if not path.exists():
        return "does not exist"
    if not path.is_file():
        return "is not a regular file. Give a .keras or .h5 file"
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"PK"):
        return _archive_problem(path)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _hdf5_problem(path)
    if start.startswith(b"\x93NUMPY"):
        return "is a NumPy array. Give the model first, and the array after `--data`"
    if start[4:8] == b"TFL3":
        return _BY_SUFFIX[".tflite"]
    if ".data-" in path.suffix:
        return _BY_SUFFIX[".index"]
    if path.suffix in _BY_SUFFIX:
        return _BY_SUFFIX[path.suffix]
    if path.suffix in (*_ARCHIVE, *_HDF5):
        kind = "a zip archive" if path.suffix in _ARCHIVE else "an HDF5 file"
        return f"is not {kind}: it is damaged, or it was written by another program"
    return "must be a .keras or .h5 file"


def _archive_problem(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
    except Exception as error:  # a damaged file may raise anything
        return f"is a damaged zip archive: {error}"
    if not is_model_archive(held):
        if any(name.endswith("data.pkl") for name in held):
            return _BY_SUFFIX[".pt"]
        if held and all(name.endswith(".npy") for name in held):
            return "holds NumPy arrays. Give the model first, and the arrays after `--data`"
        return f"is a zip archive without a model's config.json. {_SAVE_WHOLE}"
    return _misnamed(path, _ARCHIVE)


def _hdf5_problem(path: Path) -> str:
    import h5py

    try:
        with h5py.File(path) as file:
            is_whole = is_model_hdf5(file.attrs)
    except Exception as error:  # a damaged file may raise anything
        return f"is a damaged HDF5 file: {error}"
    if not is_whole:
        return f"holds weights only, and not the layers that they belong to. {_SAVE_WHOLE}"
    return _misnamed(path, _HDF5)


def _misnamed(path: Path, endings: tuple[str, ...]) -> str:
    if path.suffix in endings:
        return ""
    return f"holds a model of Keras under another name: rename it to {path.stem}{endings[0]}"


def load(path: Path, *, compiled: bool) -> Any:
    """Returns the model of a file, loaded in safe mode, or refuses the file with the reason.

    If the model is to be `compiled`, and its loss and optimizer cannot be loaded, it is returned
    without them, with a line on standard error.
    """
    import keras

    from keras_he.initializers.skip_init import skip_init

    try:
        with skip_init(missing="draw"):
            return keras.models.load_model(path, compile=compiled, safe_mode=True)
    except Exception as error:  # Keras may raise anything on a broken or foreign file
        if not compiled:
            raise Refusal(_why(path, error, keras.__version__)) from error
        said = last_words(error)
    # Keras cannot load the loss "mse" that it saved in .h5.
    model = load(path, compiled=False)
    print(
        f"The model is used without its loss and optimizer, which cannot be loaded: {said}",
        file=sys.stderr,
    )
    return model


def save(model: Any, path: Path) -> None:
    """Writes a model to a temporary file, and renames it when it is complete."""
    place = path.resolve()  # a link remains a link
    temporary = place.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        model.save(temporary)
        os.replace(temporary, place)
    except Exception as error:  # a full disk, or a model that cannot be saved in this format
        raise Refusal(f"{path} cannot be written. Keras says: {last_words(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def writable(name: str, *, model: bool = False) -> Path:
    """Returns the path to write a model or a report to, or raises why it cannot be written."""
    path = Path(name)
    if not model and path.suffix in (*_ARCHIVE, *_HDF5):
        raise Refusal(f"{path} is the name of a model file: choose another name for the report")
    if model and path.suffix not in (".keras", ".h5"):
        raise Refusal(f"{path} must be a .keras or .h5 file")
    if path.is_dir():
        raise Refusal(f"{path} cannot be written: it is a folder")
    if not path.parent.is_dir():
        raise Refusal(f"{path} cannot be written: there is no folder {path.parent}")
    return path


def last_words(error: Exception) -> str:
    """Returns the end of a message, which has the reason, without arguments and colours."""
    text = without_arguments(re.sub(r"\x1b\[\d*m", "", str(error)))
    words = " ".join(text.split()) or type(error).__name__
    return words if len(words) <= 300 else f"{words[:140]} … {words[-150:]}"


def _why(path: Path, error: Exception, installed: str) -> str:
    """Returns why a file does not load, and what to do."""
    text = str(error)
    if is_about_code(text):
        return (
            f"{path} holds a Lambda layer, and code from files is not executed. If you trust the "
            "file, load it in Python with keras.models.load_model(…, safe_mode=False), and call "
            "keras_he there"
        )
    version = keras_version(path)
    if version and _numbers(version) > _numbers(installed):
        return (
            f"{path} was written by Keras {version}, and Keras {installed} is installed. "
            "Upgrade Keras, or write the file with the installed version"
        )
    if version and version.startswith(("1.", "2.")):
        return (
            f"{path} was written by Keras {version}, and Keras {installed} cannot read it. Rebuild "
            f"the model in Keras 3 and save it. Keras says: {last_words(error)}"
        )
    if is_about_unknown_classes(text):
        return (
            f"{path} holds classes that are not registered. Import the module that registers "
            f"them: --import MODULE. Keras says: {last_words(error)}"
        )
    return f"{path} cannot be loaded. Keras says: {last_words(error)}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:3])
