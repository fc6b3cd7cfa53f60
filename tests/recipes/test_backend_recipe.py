"""A backend of Keras that keras_he does not know, and the recipe of ARCHITECTURE.md to add one.

Keras' NumPy backend stands for it, in a copy of the package that does not have its class.
"""

import importlib.util
import json

import keras
import pytest
from recipes.package_copy import PackageCopy, modules_of_recipe

import keras_he

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("jax") is None, reason="Keras' NumPy backend needs JAX"
    ),
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="runs on the NumPy backend in any leg"
    ),
]

NUMPY = '    "numpy": ("generic", "Framework"),\n'
TOY = '''
"""A toy framework: its tensors are NumPy arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_he.backend.generic import Framework


class Toy(Framework):
    """A framework that counts what it is handed over."""

    handed_over = 0

    def to_tensor(self, array: NDArray[Any], dtype: str) -> Any:
        """Returns the array as a tensor."""
        Toy.handed_over += 1
        return np.array(super().to_tensor(array, dtype))
'''

# Each public name, used once, and what it gives.
USE = """
import json
import numpy as np
import keras, keras_he

def model(initializer=None):
    return keras.Sequential([
        keras.Input((8,)),
        keras.layers.Dense(4, "relu", kernel_initializer=initializer or "glorot_uniform"),
        keras.layers.Dense(2),
    ])

def drawn(cls):
    return cls(seed=1)((4, 4)).sum()

def loaded():
    weights = model().get_weights()
    with keras_he.skip_init():
        copy = model("he_relu")
        copy.set_weights(weights)
    return copy.count_params()

def logged():
    logger = keras_he.SignalLogger(np.ones((4, 8), "float32"), backward=False)
    logger.set_model(model())
    logger.on_train_begin()
    return logger.reports[0].findings is not None

X = np.random.default_rng(0).standard_normal((16, 8)).astype("float32")
USES = {
    "DepthFactors": lambda: keras_he.DepthFactors(1.0, 1.0),
    "Fans": lambda: keras_he.Fans(1.0, 2.0),
    **{name: getattr(keras_he, name).mro for name in RESULTS},
    "KaimingNormal": lambda: drawn(keras_he.KaimingNormal),
    "KaimingOrthogonal": lambda: drawn(keras_he.KaimingOrthogonal),
    "KaimingTruncatedNormal": lambda: drawn(keras_he.KaimingTruncatedNormal),
    "KaimingUniform": lambda: drawn(keras_he.KaimingUniform),
    "KerasHeError": lambda: keras_he.KerasHeError(""),
    "Note": lambda: keras_he.Note("kind", "text"),
    "SignalLogger": logged,
    "audit": lambda: len(keras_he.audit(model(), X, backward=False).kernels),
    "audit backward": lambda: keras_he.audit(model(), X),
    "depth_factors": lambda: keras_he.depth_factors("gelu"),
    "fans": lambda: keras_he.fans((3, 3, 8, 4)),
    "gain": lambda: keras_he.gain("gelu"),
    "gain of a function": lambda: keras_he.gain(lambda x: x**3),
    "get": lambda: keras_he.get("he_relu"),
    "initialize": lambda: [one.gain for one in keras_he.initialize(model(), X, seed=1).kernels],
    "initialize fan_avg": lambda: keras_he.initialize(model(), X, mode="fan_avg"),
    "layer_fans": lambda: keras_he.layer_fans(model()),
    "make_portable": lambda: len(keras_he.make_portable(model())),
    "names": lambda: len(keras_he.names()),
    "register": keras_he.register,
    "register_kernels": lambda: keras_he.register_kernels(keras.layers.Dense, lambda layer: {}),
    "skip_init": loaded,
}
found = {}
for name, use in USES.items():
    try:
        found[name] = ["works", repr(use())]
    except Exception as error:
        found[name] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""

RESULTS = (
    "AuditReport", "Comparison", "Figures", "Finding", "InitializationReport", "Report", "Row",
)  # fmt: skip
NEED_NO_TENSOR = {
    *RESULTS,
    "DepthFactors", "Fans", "KerasHeError", "Note", "depth_factors", "fans", "gain", "get",
    "layer_fans", "names", "register", "register_kernels",
}  # fmt: skip


def used(copy):
    """Returns what every public name gives on Keras' NumPy backend, in a copy of the package."""
    code = f"RESULTS = {RESULTS}\n{USE}"
    return json.loads(copy.run(code, KERAS_BACKEND="numpy").splitlines()[-1])


@pytest.fixture(scope="module")
def unknown(tmp_path_factory):
    copy = PackageCopy(tmp_path_factory.mktemp("unknown"))
    copy.replace("backend/framework", NUMPY, "")
    return used(copy)


def test_every_public_name_is_used(unknown):
    assert {name.partition(" ")[0] for name in unknown} == set(keras_he.__all__)


def test_what_needs_no_tensor_works_on_an_unknown_backend(unknown):
    assert {name for name, (kind, _) in unknown.items() if kind == "works"} == NEED_NO_TENSOR


def test_everything_else_raises_the_same_error_there(unknown):
    refused = {tuple(one) for name, one in unknown.items() if name not in NEED_NO_TENSOR}
    assert len(refused) == 1
    ((kind, message),) = refused
    assert kind == "InvalidArgument"
    accepted = '"tensorflow", "jax", "torch", "openvino"'
    assert message.startswith(f"`KERAS_BACKEND` must be one of {accepted}. Received: ")
    assert "KERAS_BACKEND='numpy'" in message
    assert "Set the environment variable KERAS_BACKEND" in message


def test_the_command_line_says_it_in_one_line(tmp_path):
    copy = PackageCopy(tmp_path)
    copy.replace("backend/framework", NUMPY, "")
    copy.run(
        'import keras; keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save("m.keras")'
    )
    said = copy.run(command=["audit", "m.keras"], code_expected=2, KERAS_BACKEND="numpy")
    assert said.count("\n") == 1
    assert "`KERAS_BACKEND` must be one of" in said


def test_a_backend_that_is_added_by_the_recipe_does_what_the_generic_class_does(tmp_path):
    copy = PackageCopy(tmp_path)
    copy.replace("backend/framework", NUMPY, '    "numpy": ("toy", "Toy"),\n')
    copy.path("backend/toy").write_text(TOY.lstrip(), encoding="utf-8")
    assert copy.changed <= modules_of_recipe("a backend")
    found = used(copy)
    refused = {name for name, (kind, _) in found.items() if kind != "works"}
    assert refused == {"audit backward", "initialize fan_avg"}
    assert {found[name][0] for name in refused} == {"InvalidArgument"}
    assert found["KaimingNormal"] == ["works", repr(keras_sum())]
    counted = """
import keras_he
from keras_he.backend.toy import Toy
keras_he.KaimingNormal()((2, 2))
print(Toy.handed_over)
"""
    assert copy.run(counted, KERAS_BACKEND="numpy").strip() == "1"


def keras_sum():
    """Returns the sum that the toy backend prints, drawn on this backend."""
    return keras.ops.convert_to_numpy(keras_he.KaimingNormal(seed=1)((4, 4))).sum()
