"""Whether Keras can be imported, and when.

Keras imports its backend. If that is missing, Keras says only "No module named 'tensorflow'"; the
errors here say what to set or to install. Importing this module does not import Keras, so the
command line can read its arguments first.
"""

import importlib
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

_OLDEST = (3, 12)
_UPGRADE = "Install it with: python -m pip install --upgrade keras"
# The backends that keras_he is tested on, in the order in which they are proposed.
_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def check_keras() -> None:
    """Imports Keras, or raises an `ImportError` that says what to do.

    Raises:
        ImportError: If Keras is missing or older than 3.12, if `TF_USE_LEGACY_KERAS` asks for
            Keras 2, or if Keras' backend is unknown or not installed.
    """
    if os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True"):  # what TensorFlow reads
        raise ImportError(
            "keras_he needs Keras 3, and TF_USE_LEGACY_KERAS makes tf.keras Keras 2. Unset it."
        )
    try:
        import keras
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "keras":
            raise ImportError(f"keras_he needs Keras 3. {_UPGRADE}", name="keras") from None
        if missing in (*_BACKENDS, "jaxlib", "openvino"):
            raise ImportError(_backend_missing(missing), name=missing) from None
        raise
    except ValueError as error:
        if "Unable to import backend" not in str(error):
            raise
        raise ImportError(_backend_unknown(str(error).rpartition(":")[2].strip())) from None
    version = str(getattr(keras, "__version__", "unknown"))
    if not version.startswith("3.") or _release(version) < _OLDEST:
        raise ImportError(
            f"keras_he needs Keras 3.12 or newer. Keras {version} is installed. {_UPGRADE}",
            name="keras",
        )


def is_deferred() -> bool:
    """Returns whether the public names are still to be loaded, as in the command line."""
    return _deferred


def complete() -> ModuleType:
    """Returns the package with all of its public names, and imports them if they were deferred."""
    global _deferred
    package = importlib.import_module("keras_he")
    if _deferred:
        _deferred = False
        importlib.reload(package)
    return package


def _runs_as_command() -> bool:
    """Returns whether this process is `keras-he`, or `python -m keras_he`."""
    called = str(sys.argv[0]) if getattr(sys, "argv", None) else ""
    if called == "-m":  # its value while Python looks for the module to run
        return _module_to_run(sys.orig_argv[1:]) == "keras_he"
    return Path(called).name in ("keras-he", "keras-he.exe")


def _module_to_run(arguments: list[str]) -> str:
    """Returns the module of Python's option `-m`, which may be part of a group, as in `-um`."""
    left = iter(arguments)
    for argument in left:
        option = re.fullmatch(r"-[a-zA-Z]*?([cmWX])(.*)", argument)  # the options with a value
        if option:
            value = option[2] or next(left, "")
            if option[1] in "cm":
                return value if option[1] == "m" else ""
        elif argument == "--check-hash-based-pycs":
            next(left, "")
        elif not argument.startswith("-"):
            break
    return ""


_deferred = _runs_as_command()


def _backend_missing(missing: str) -> str:
    """Returns what to do if the backend that Keras would use is not installed."""
    asked = os.environ.get("KERAS_BACKEND")
    if asked and asked != missing:  # Keras' NumPy backend needs JAX
        return f"Keras' {asked} backend needs {missing}, which is not installed."
    why = f"KERAS_BACKEND={asked}" if asked else "its default, or that of Keras' keras.json"
    start = f"Keras needs a backend, and {_BACKENDS.get(missing, missing)} ({why}) is not installed"
    found = [name for name in _BACKENDS if name != missing and _is_installed(name)]
    if found:
        return (
            f"{start}. Installed: {', '.join(_BACKENDS[name] for name in found)}. Set the "
            f"environment variable KERAS_BACKEND={found[0]}, or write "
            f'`import os; os.environ["KERAS_BACKEND"] = "{found[0]}"` before the first import of '
            "keras or keras_he."
        )
    return (
        f"{start}, and no other backend is. Install one: `python -m pip install tensorflow`; or "
        "`jax` or `torch`, and set the environment variable KERAS_BACKEND to that name."
    )


def _backend_unknown(name: str) -> str:
    """Returns what to do if Keras does not know the backend."""
    near = f' Did you mean "{name.lower()}"?' if name.lower() in _BACKENDS else ""
    return (
        "Keras' backend must be tensorflow, jax or torch. Received, from KERAS_BACKEND or from "
        f"Keras' keras.json: {name}.{near}"
    )


def _is_installed(package: str) -> bool:
    """Returns whether a package can be imported; a folder of that name is not enough."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def _release(version: str) -> tuple[int, ...]:
    """Returns the first two numbers of a version."""
    parts = version.split(".")[:2]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)
