"""The hand-over of a NumPy array to the backend, without a copy wherever that is safe.

TensorFlow and JAX take over memory that is aligned to 64 bytes; with less, TensorFlow 2.21 aborts
the process, so alignment is checked here, and memory that lacks it is copied. What was handed over
belongs to the backend: nobody writes to the array afterwards.

TensorFlow keeps the memory of tensors that are gone, so that the system need not clear it again:
large arrays are drawn into a tensor of TensorFlow's that holds nothing yet.
"""

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, TypeVar

import keras
import numpy as np
from numpy.typing import NDArray

from keras_he.sampling.stream import ALIGNMENT, aligned_empty

Function = TypeVar("Function", bound=Callable[..., Any])

_WORTH_LENDING = 2**22  # bytes, from which on cleared pages cost more than TensorFlow's calls
_WORTH_SHARING = 2**16  # bytes, from which on a copy costs more than what it saves


def empty(shape: Sequence[int], dtype: type[np.generic]) -> NDArray[Any]:
    """Returns an uninitialized array, in the memory that the backend takes over soonest."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if keras.backend.backend() != "tensorflow":
        return aligned_empty(shape, dtype) if size >= _WORTH_SHARING else np.empty(shape, dtype)
    if size < _WORTH_LENDING or is_tracing():
        return aligned_empty(shape, dtype)
    import tensorflow as tf

    with tf.device(None), tf.device("CPU:0"):  # of this process, whatever the strategy
        return np.asarray(_Lent(tf.raw_ops.Empty(shape=shape, dtype=dtype, init=False)))


class _Lent:
    """The memory of a TensorFlow tensor that nobody has seen yet, for NumPy to fill."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        memory = np.asarray(memoryview(tensor))  # for reading, as all that see a tensor have it
        self.__array_interface__ = {
            **memory.__array_interface__,
            "data": (memory.ctypes.data, False),
        }


def to_tensor(array: NDArray[Any], dtype: str) -> Any:
    """Returns the array as a tensor of the Keras backend, on the device that Keras would choose.

    Args:
        array: C-contiguous; for `dtype="bfloat16"` its bits as uint16.
        dtype: Dtype of the tensor.
    """
    return _HAND_OVERS.get(keras.backend.backend(), _copied)(array, dtype)


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


def untraced(function: Function) -> Function:
    """Returns the function as `torch.compile`, which takes NumPy for PyTorch, may not trace it."""
    if keras.backend.backend() != "torch":
        return function
    import torch

    why: dict[str, Any] = {"reason": "build the layer before it is compiled: call it once"}
    known = inspect.signature(torch.compiler.disable).parameters
    return torch.compiler.disable(function, **(why if "reason" in known else {}))


def is_symbolic(value: Any) -> bool:
    """Returns whether a value is a tensor that has no numbers here, but stands for some."""
    if isinstance(value, keras.KerasTensor):
        return True
    if not keras.ops.is_tensor(value):
        return False
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return bool(tf.is_symbolic_tensor(value))
    if backend == "jax":
        import jax

        return isinstance(value, jax.core.Tracer)
    try:
        value.data_ptr()  # batched and traced tensors have no memory, and say so
    except (AttributeError, RuntimeError):
        return backend == "torch"
    return bool(value.is_meta)


def float_tensors(values: Any) -> list[Any]:
    """Returns the tensors of floats in a nested structure."""
    return [
        value
        for value in keras.tree.flatten(values)
        if keras.ops.is_tensor(value)
        and keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype))
    ]


def number(tensor: Any) -> float:
    """Returns what a tensor of one element holds, also where parts of it lie on several devices.

    On PyTorch `float` of a tensor that is cut over processes sees one process's part alone.
    """
    return float(keras.ops.convert_to_numpy(tensor))


def mean_square(value: Any) -> float:
    """Returns the second moment of a tensor's elements, taken in float32; 0.0 where it has none."""
    size = math.prod(value.shape)
    if not size:
        return 0.0
    if hasattr(value, "detach"):  # PyTorch warns of numbers that it could differentiate
        value = value.detach()
    wide = keras.ops.cast(value, "float32") if value.dtype != "float32" else value
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        total = 2.0 * float(tf.nn.l2_loss(wide))  # one pass, and no square of it in memory
    else:
        total = number(keras.ops.sum(keras.ops.square(wide)))
    if 1e-30 < total < 1e38 or math.isnan(total):
        return total / size
    # Beyond float32's range for squares, though the values may be within it.
    largest = number(keras.ops.max(keras.ops.abs(wide)))
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return number(keras.ops.mean(keras.ops.square(wide / largest))) * largest * largest


@contextmanager
def apart(seed: int | None = None, *, gradients: bool = False) -> Iterator[None]:
    """Runs eager code that leaves no trace on PyTorch: no gradients, no use of its generator.

    Keras' Dropout and a `DataLoader` move PyTorch's own generator past any seed generator; `seed`
    sets it within. TensorFlow and JAX record nothing unasked.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.set_grad_enabled(gradients), torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        yield


def has_gradients() -> bool:
    """Returns whether the backend differentiates; Keras' NumPy and OpenVINO backends do not."""
    return keras.backend.backend() in _HAND_OVERS


def gradients(function: Callable[[list[Any]], Any], values: list[Any]) -> list[Any]:
    """Returns the gradients of a number that eager code makes of tensors; zeros where it is cut."""
    if not values:
        return []
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        values = [tf.identity(value) for value in values]  # of one replica, within a strategy
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for value in values:
                tape.watch(value)
            result = function(values)
        zero = tf.UnconnectedGradients.ZERO
        return list(tape.gradient(result, values, unconnected_gradients=zero))
    if backend == "jax":
        import jax

        return list(jax.grad(function)(values))
    import torch

    leaves = [value.detach().requires_grad_() for value in values]
    result = function(leaves)
    if not result.requires_grad:
        return [torch.zeros_like(value) for value in values]
    return list(torch.autograd.grad(result, leaves, allow_unused=True, materialize_grads=True))


def double_precision() -> AbstractContextManager[Any]:
    """Returns the context in which JAX computes in float64, as the other backends do if asked."""
    if keras.backend.backend() != "jax":
        return nullcontext()
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()  # before JAX 0.8


def _aligned(array: NDArray[Any]) -> bool:
    return array.size > 0 and array.ctypes.data % ALIGNMENT == 0


def _tensorflow(array: NDArray[Any], dtype: str) -> Any:
    import tensorflow as tf

    if isinstance(array.base, _Lent):
        tensor = array.base.tensor
    elif _aligned(array) and (array.nbytes >= _WORTH_SHARING or tf.executing_eagerly()):
        tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    else:
        tensor = tf.constant(array)
    return tf.bitcast(tensor, tf.bfloat16) if dtype == "bfloat16" else tensor


def to_jax_dtype(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Returns the array in the dtype that it has in JAX."""
    if dtype not in ("bfloat16", "float64"):
        return array
    import jax

    if dtype == "bfloat16":
        return array.view(jax.numpy.bfloat16)
    # Without `jax_enable_x64` JAX has no float64, and says so in a warning at every draw.
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def _jax(array: NDArray[Any], dtype: str) -> Any:
    import jax

    array = to_jax_dtype(array, dtype)
    # Both share aligned memory and copy other. The first takes half of the time, and commits the
    # tensor to its device: it is for where there is no other, for tensors go where they are needed.
    place = _only_place(jax.local_devices()[0])
    if place is not None:
        return jax.make_array_from_callback(array.shape, place, lambda _: array)
    with jax.ensure_compile_time_eval():  # numbers, which outlive a trace, as the first's are
        return jax.device_put(array)


@lru_cache(maxsize=1)
def _only_place(device: Any) -> Any:
    """Returns where all tensors of JAX lie if there is one device, a CPU, and None otherwise."""
    import jax

    alone = jax.device_count() == 1 and device.platform == "cpu"
    return jax.sharding.SingleDeviceSharding(device) if alone else None


def _torch(array: NDArray[Any], dtype: str) -> Any:
    import torch

    if dtype == "bfloat16":
        tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(array)
    return keras.ops.convert_to_tensor(tensor)  # on Keras' device


def _copied(array: NDArray[Any], dtype: str) -> Any:
    """Returns what any other backend of Keras (NumPy, OpenVINO) converts by itself."""
    if dtype == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return keras.ops.convert_to_tensor(array, dtype=dtype)


_HAND_OVERS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
