"""The framework that Keras runs on: one object, chosen once, when this module is imported.

What needs tensors raises one error on a backend that has no class here. What needs none (gains,
fans, names, configs) works there.
"""

from importlib import import_module
from typing import Any

import keras

from keras_he.backend.generic import Framework, Function
from keras_he.errors import invalid

# From the name of a backend of Keras to the module here that has its class, and the class.
_CLASSES = {
    "tensorflow": ("tensorflow", "TensorFlow"),
    "jax": ("jax", "Jax"),
    "torch": ("torch", "Torch"),
    "numpy": ("generic", "Framework"),
    "openvino": ("generic", "Framework"),
}


class _Unsupported:
    """A backend that has no class here: whatever is asked of it raises the same error."""

    def untraced(self, function: Function) -> Function:
        """Returns the function: it is called when classes are defined, before there is a tensor."""
        return function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python itself asks
            raise AttributeError(name)
        raise invalid(
            "KERAS_BACKEND",
            "one of " + ", ".join(f'"{one}"' for one in _CLASSES),
            keras.backend.backend(),
            "keras_he draws on these backends of Keras only. Set the environment variable "
            "KERAS_BACKEND to one of them before Keras is imported.",
        )


def _chosen() -> Any:
    if keras.backend.backend() not in _CLASSES:
        return _Unsupported()
    module, cls = _CLASSES[keras.backend.backend()]
    return getattr(import_module(f"keras_he.backend.{module}"), cls)()


framework: Framework = _chosen()
