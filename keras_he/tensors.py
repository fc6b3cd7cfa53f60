"""The hand-over of a NumPy array to the backend, without a copy wherever that is safe.

TensorFlow and JAX take over memory that is aligned to 64 bytes; with less, TensorFlow 2.21 aborts
the process, so alignment is checked here, and memory that lacks it is copied. What was handed over
belongs to the backend: nobody writes to the array afterwards.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_he.sampling import ALIGNMENT

# From here on a copy costs more than the calls that avoid it.
_WORTH_SHARING = 2**16  # bytes


def to_tensor(array: NDArray[Any], dtype: str) -> Any:
    """Returns the array as a tensor of the Keras backend, on the device that Keras would choose.

    Args:
        array: C-contiguous; for `dtype="bfloat16"` its bits as uint16.
        dtype: Dtype of the tensor.
    """
    hand_over = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}.get(
        keras.backend.backend(), _copied
    )
    return keras.ops.convert_to_tensor(hand_over(array, dtype), dtype=dtype)


def is_tracing() -> bool:
    """Returns whether values are symbolic here: in `tf.function`, `jax.jit` or `torch.compile`."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return not tf.executing_eagerly()
    if backend == "jax":
        import jax

        return isinstance(jax.numpy.zeros(()), jax.core.Tracer)
    if backend == "torch":
        import torch

        # Keras infers shapes on PyTorch's device without memory.
        return bool(torch.compiler.is_compiling() or keras.ops.zeros(()).is_meta)
    return False


def double_precision() -> AbstractContextManager[Any]:
    """Returns the context in which JAX computes in float64, as the other backends do if asked."""
    if keras.backend.backend() != "jax":
        return nullcontext()
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()  # before JAX 0.8


def _shareable(array: NDArray[Any]) -> bool:
    return array.nbytes >= _WORTH_SHARING and array.ctypes.data % ALIGNMENT == 0


def _tensorflow(array: NDArray[Any], dtype: str) -> Any:
    import tensorflow as tf

    if _shareable(array):
        tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    else:
        tensor = tf.constant(array)
    return tf.bitcast(tensor, tf.bfloat16) if dtype == "bfloat16" else tensor


def _jax(array: NDArray[Any], dtype: str) -> Any:
    import jax

    if dtype == "bfloat16":
        array = array.view(jax.numpy.bfloat16)
    # Without `jax_enable_x64` JAX has no float64, and says so in a warning at every draw.
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
    return jax.device_put(array) if _shareable(array) else jax.numpy.array(array)


def _torch(array: NDArray[Any], dtype: str) -> Any:
    import torch

    if dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _copied(array: NDArray[Any], dtype: str) -> Any:
    """Returns what any other backend of Keras (NumPy, OpenVINO) converts by itself."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array
