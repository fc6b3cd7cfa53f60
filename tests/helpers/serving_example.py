"""What the tests of examples/serving share: scripts, their processes, an export, the documents.

`KERAS_HE_NEEDS_SERVING=1` makes a missing package a failure.
"""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import keras
import numpy as np
import pytest

import keras_he  # noqa: F401 - registers the strings of the models

ROOT = Path(__file__).resolve().parents[2]
SERVING = ROOT / "examples" / "serving"
STAND_IN = ROOT / "tests" / "serving" / "stand_in"
README = (SERVING / "README.md").read_text(encoding="utf-8")
DOCUMENT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
NEEDED = {
    "grpc": "grpcio",
    "tensorflow_serving": "tensorflow-serving-api",
    "sklearn": "scikit-learn",
}
MISSING = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
MARKS = [
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="SavedModels are TensorFlow's"
    ),
    pytest.mark.skipif(
        bool(MISSING) and os.environ.get("KERAS_HE_NEEDS_SERVING") != "1",
        reason=f"not installed: {', '.join(MISSING)}",
    ),
]
SCRIPTS = ("export_model", "client", "protocol", "servable", "front")
PATIENCE = 600  # seconds until what answers nothing has failed; an idle machine needs a few
OUTPUTS = {"serving_default": {"probabilities", "label"}, "features": {"features"}}


# Scripts


@cache
def scripts():
    """Returns the scripts as modules; what they do to the process is taken back."""
    environment, path = dict(os.environ), list(sys.path)
    sys.path[:0] = [str(SERVING), str(STAND_IN)]
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in SCRIPTS})
    finally:
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)


def process_of(script, *arguments, **options):
    """Starts a script of the example, or of the stand-in, as a user does."""
    quiet = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")  # what the scripts set by themselves
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    folder = SERVING if (SERVING / script).exists() else STAND_IN
    return subprocess.Popen(
        [sys.executable, folder / script, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finished(process):
    """Returns exit code, stdout and stderr of a process that ends by itself."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, out, err


# Models and exports


class Exported(NamedTuple):
    base: Path
    path: Path  # of version 1 of digits
    check: Path  # the file of --check, and what it holds
    arrays: dict[str, np.ndarray]
    said: str


def small_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax", kernel_initializer="he_linear"),
        ]
    )


def zeros(*shape):
    return {"image": np.zeros(shape, "float32")}


# Documents


def shown(script):
    """Returns what the README shows that a command prints; the last place that shows anything."""
    pattern = rf"^\$ [^\n]*{re.escape(script)}[^\n]*\n(?:    [^\n]*\n)*((?:[^$`\n][^\n]*\n)+)"
    return re.findall(pattern, README, flags=re.MULTILINE)[-1].splitlines()


def command(part):
    """Returns the one command of the README that has a part, on one line."""
    lines = re.findall(r"^\$ (.*)$", README.replace("\\\n", " "), flags=re.MULTILINE)
    (found,) = {line for line in lines if part in line}
    return found


def table(section, number=0):
    """Returns the rows of a table of docs/serving.md as dicts."""
    parts = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)
    (body,) = [part for part in parts if part.startswith(section + "\n")]
    lines = re.findall(r"(?:^\|.*\n)+", body, flags=re.MULTILINE)[number].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def code(cell):
    assert re.fullmatch(r"`[^`]+`", cell), cell
    return cell.strip("`")
