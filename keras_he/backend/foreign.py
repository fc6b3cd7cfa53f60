"""Hints for arguments that are not a model or a layer of Keras 3: what to give instead."""

import os
from typing import Any

import keras

_KERAS_2 = (
    "It is of Keras 2 ({package}), and keras_he needs Keras 3. Build it from `import keras`, not "
    "from tf_keras, nor from tf.keras under TF_USE_LEGACY_KERAS. If `import keras` is not Keras 3, "
    "run `python -m pip install --upgrade keras`."
)
_OTHERS = {"torch": "PyTorch", "flax": "Flax", "haiku": "Haiku", "equinox": "Equinox"}


def is_keras_2(value: Any) -> bool:
    """Returns whether a value or a class comes from Keras 2."""
    return bool(_keras_2_package(value))


def hint(value: Any) -> str:
    """Returns what a value is, and what to give instead; an empty string if it is not known."""
    package = _keras_2_package(value)
    if package:
        return _KERAS_2.format(package=package)
    if isinstance(value, (str, os.PathLike)):
        return "It is a path. Load the model first: `keras.models.load_model(path)`."
    if isinstance(value, type):
        return "It is a class. Give an instance of it."
    if isinstance(value, (list, tuple)):
        return "Put the layers into a model first: `keras.Sequential([...])`."
    if isinstance(value, keras.KerasTensor):
        return "It is the output of a layer. Make a model first: `keras.Model(inputs, outputs)`."
    roots = {cls.__module__.partition(".")[0] for cls in type(value).__mro__}
    for root, name in _OTHERS.items():
        if root in roots:
            return f"It is of {name}; keras_he needs a model of Keras."
    return ""


def _keras_2_package(value: Any) -> str:
    """Returns the package of Keras 2 that a value comes from, or an empty string."""
    cls = value if isinstance(value, type) else type(value)
    for module in (base.__module__ for base in cls.__mro__):
        if module.partition(".")[0] == "tf_keras":
            return "tf_keras"
        if module.startswith(("keras.engine.", "tensorflow.python.keras.")):
            return "tf.keras"
    return ""
