"""Portable files, loaded where keras_he is not: on the Keras that wrote them, and on newer ones.

`KERAS_HE_PLAIN_PYTHON` is a Python with TensorFlow and the newest Keras, without keras_he;
`KERAS_HE_OLD_PYTHON` one with the oldest Keras and keras_he; `KERAS_HE_KERAS_FOLDERS` are folders
with one Keras each (`pip install --no-deps --target`), joined as paths in `PATH` are. Where there
is no plain Python, this one is used, and the import of keras_he is blocked.
"""

import json
import os
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_he

pytestmark = pytest.mark.slow

L = keras.layers
BACKEND = keras.backend.backend()
PLAIN_PYTHON = os.environ.get("KERAS_HE_PLAIN_PYTHON") if BACKEND == "tensorflow" else None
OLD_PYTHON = os.environ.get("KERAS_HE_OLD_PYTHON")
KERAS_FOLDERS = [
    one for one in os.environ.get("KERAS_HE_KERAS_FOLDERS", "").split(os.pathsep) if one
]
CLASSES = ("KaimingNormal", "KaimingUniform", "KaimingTruncatedNormal", "KaimingOrthogonal")
MODELS = (*CLASSES, "initialized")
ENDINGS = (".keras", ".h5")

IMPORTS = """
import json
import os
import keras
import numpy as np
import keras_he
L = keras.layers
"""


def make_model(kind):
    """Returns a model with layers of every kind; its kernels say the class, or `initialize`."""
    ours = kind != "initialized"
    cls = getattr(keras_he, kind) if ours else None

    def kernel(name="kernel", *args, **kwargs):
        return {f"{name}_initializer": cls(*args, **kwargs)} if ours else {}

    image = keras.Input((8, 8, 4), name="image")
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    x = L.Conv2D(4, 3, activation="relu", **kernel(seed=1))(image)
    x = L.PReLU(shared_axes=[1, 2])(x)
    x = L.DepthwiseConv2D(2, **kernel("depthwise", "prelu", geometry="depthwise"))(x)
    x = L.SeparableConv2D(
        4, 2, **kernel("depthwise", geometry="depthwise"), **kernel("pointwise", "linear")
    )(x)
    x = L.Conv2DTranspose(4, 2, strides=2, **kernel(geometry="transpose", strides=2))(x)
    x = L.Reshape((-1, 4))(L.BatchNormalization()(x))
    x = L.MultiHeadAttention(2, 4, **kernel("kernel", "linear"))(x, x)
    y = L.Embedding(9, 4, **kernel("embeddings", gain=1.0, mode="fan_out"))(tokens)
    x = L.Concatenate(axis=1)([x, y])
    x = L.EinsumDense("abc,cd->abd", (None, 4), **kernel())(x)
    x = L.TimeDistributed(L.Dense(4, activation="gelu", **kernel("kernel", "gelu")))(x)
    gates = {**kernel(gates=4), **kernel("recurrent", "tanh", gates=4)}
    x = L.Bidirectional(L.LSTM(3, **gates))(x)
    inside = keras.Sequential([keras.Input((6,)), L.Dense(5, **kernel("kernel", "tanh"))])
    model = keras.Model([image, tokens], L.Dense(3, **kernel())(inside(x)))
    if not ours:
        keras_he.initialize(model, seed=1)
    return model


def batch():
    image = np.cos(np.arange(2 * 8 * 8 * 4, dtype="float32")).reshape(2, 8, 8, 4)
    return [image, np.arange(12, dtype="int32").reshape(2, 6) % 9]


def write(folder, kinds, endings):
    """Writes portable files, and beside them weights and predictions as they were before."""
    for kind in kinds:
        keras.utils.set_random_seed(0)
        model = make_model(kind)
        predicted = keras.ops.convert_to_numpy(model.predict_on_batch(batch()))
        path = os.path.join(folder, kind)
        np.savez(f"{path}.npz", *model.get_weights(), predicted=predicted)
        keras_he.make_portable(model)
        for ending in endings:
            model.save(f"{path}{ending}")


READ = """
import importlib.util
import json
import sys

if BLOCK:
    sys.modules["keras_he"] = None
else:
    assert importlib.util.find_spec("keras_he") is None
import keras
import numpy as np
for path in PATHS:
    model = keras.models.load_model(path, compile=False)
    np.savez(f"{path}{SUFFIX}", *model.get_weights(), predicted=model.predict_on_batch(batch()))
assert sys.modules.get("keras_he") is None
print(json.dumps([keras.version(), keras.backend.backend()]))
"""


def read(run_python, paths, suffix=".read.npz", keras_folder=""):
    """Loads files where keras_he is not; returns the version of Keras there."""
    values = f"PATHS, SUFFIX, BLOCK = {[*map(str, paths)]!r}, {suffix!r}, {not PLAIN_PYTHON}"
    python = PLAIN_PYTHON or sys.executable
    imports = "import numpy as np"
    printed = run_python(imports, values, batch, READ, python=python, PYTHONPATH=keras_folder)
    version, backend = json.loads(printed.splitlines()[-1])
    assert backend == BACKEND
    return version


def arrays(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def assert_equal_arrays(first, second, band=0.0):
    """Asserts that weights are equal bit for bit, and predictions within a band."""
    assert first.keys() == second.keys()
    assert len(first) > 20
    for name in first:
        allowed = band if name == "predicted" else 0.0
        np.testing.assert_allclose(first[name], second[name], rtol=0, atol=allowed, err_msg=name)
    assert first["predicted"].std() > 1e-3, "a constant output would prove nothing"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("portable")
    write(folder, MODELS, ENDINGS)
    return folder


@pytest.fixture(scope="module")
def loaded(written, run_python):
    """Returns the version of Keras that loaded every portable file without keras_he."""
    paths = [written / f"{kind}{ending}" for kind, ending in FILES]
    return read(run_python, paths)


FILES = [(kind, ending) for kind in MODELS for ending in ENDINGS]
every_file = pytest.mark.parametrize(("kind", "ending"), FILES)


@every_file
def test_a_portable_file_loads_without_keras_he_bit_for_bit(written, loaded, kind, ending):
    assert loaded == keras.version()
    again = arrays(written / f"{kind}{ending}.read.npz")
    # On PyTorch the kernels of Keras' `Orthogonal` lie column by column in memory, whatever is
    # loaded into them, so sums run in another order: the longest has 36 terms of size 1 at most.
    rounding = 36 * 2.0**-24 if BACKEND == "torch" and kind == "KaimingOrthogonal" else 0.0
    assert_equal_arrays(again, arrays(written / f"{kind}.npz"), rounding)


def contents(path):
    """Returns the bytes of a file, and those of the files in it where it is an archive."""
    yield path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name.encode() + archive.read(name)


@every_file
def test_no_byte_of_a_portable_file_names_keras_he(written, tmp_path, kind, ending):
    words = (b"keras_he", b"Kaiming")
    found = [
        word for part in contents(written / f"{kind}{ending}") for word in words if word in part
    ]
    assert found == []
    model = make_model(kind)
    model.save(tmp_path / f"model{ending}")  # where the same search finds both words
    parts = [*contents(tmp_path / f"model{ending}")]
    assert all(any(word in part for part in parts) for word in words)


# From the oldest Keras to every newer one; what differs between laws is in the same config anywhere

FROM_OLDEST = [(kind, ".keras") for kind in MODELS] + [("initialized", ".h5")]

old_and_new = pytest.mark.skipif(
    not (OLD_PYTHON and PLAIN_PYTHON and KERAS_FOLDERS),
    reason="KERAS_HE_OLD_PYTHON, KERAS_HE_PLAIN_PYTHON and KERAS_HE_KERAS_FOLDERS are not all set",
)


@pytest.fixture(scope="module")
def from_oldest(tmp_path_factory, run_python):
    """Returns the folder of portable files that the oldest supported Keras wrote."""
    folder = tmp_path_factory.mktemp("oldest")
    code = f"write({str(folder)!r}, {MODELS!r}, {ENDINGS!r})\nprint(keras.version())"
    printed = run_python(IMPORTS, make_model, batch, write, code, python=OLD_PYTHON)
    assert printed.split()[-1].startswith("3.12.")
    return folder


@old_and_new
@pytest.mark.parametrize(
    "place", [*KERAS_FOLDERS, ""], ids=lambda path: Path(path).name or "newest"
)
def test_files_of_the_oldest_keras_load_on_every_newer_one(from_oldest, run_python, place):
    paths = [from_oldest / f"{kind}{ending}" for kind, ending in FROM_OLDEST]
    version = read(run_python, paths, f".{Path(place).name}.npz", place)
    assert version in Path(place).name if place else version == keras.version()
    for kind, ending in FROM_OLDEST:
        again = arrays(from_oldest / f"{kind}{ending}.{Path(place).name}.npz")
        assert_equal_arrays(again, arrays(from_oldest / f"{kind}.npz"))
