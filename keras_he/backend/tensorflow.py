"""TensorFlow.

It takes over memory that is aligned to 64 bytes. With less, TensorFlow 2.21 aborts the process, so
the alignment is checked here, and other memory is copied. It keeps the memory of deleted tensors,
so that the system need not clear it again: large arrays are drawn into a tensor of TensorFlow that
nobody has seen yet.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_he.backend.generic import WORTH_SHARING, Framework
from keras_he.sampling.stream import ALIGNMENT, aligned_empty

_WORTH_LENDING = 2**22  # bytes, from which on cleared pages cost more than TensorFlow's calls


class TensorFlow(Framework):
    """TensorFlow, with its strategies, whose replicas may pretend to be on other devices."""

    takes_gradients = True

    def empty(self, shape: Sequence[int], dtype: type[np.generic]) -> NDArray[Any]:
        """Returns an uninitialized array, in memory of TensorFlow if it is large."""
        if math.prod(shape) * np.dtype(dtype).itemsize < _WORTH_LENDING or self.is_tracing():
            return aligned_empty(shape, dtype)
        with tf.device(None), tf.device("CPU:0"):  # of this process, whatever the strategy
            return np.asarray(Lent(tf.raw_ops.Empty(shape=shape, dtype=dtype, init=False)))

    def to_tensor(self, array: NDArray[Any], dtype: str) -> Any:
        """Returns the array as a tensor."""
        is_aligned = array.size > 0 and array.ctypes.data % ALIGNMENT == 0
        if isinstance(array.base, Lent):
            tensor = array.base.tensor
        elif is_aligned and (array.nbytes >= WORTH_SHARING or tf.executing_eagerly()):
            tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
        else:
            tensor = tf.constant(array)
        return tf.bitcast(tensor, tf.bfloat16) if dtype == "bfloat16" else tensor

    def replicas(self) -> int:
        """Returns the number of replicas of the strategy in whose scope this runs."""
        return int(tf.distribute.get_strategy().num_replicas_in_sync)

    def is_tracing(self) -> bool:
        """Returns whether the code is in a `tf.function`."""
        return not tf.executing_eagerly()

    is_symbol = staticmethod(tf.is_symbolic_tensor)

    def sum_of_squares(self, tensor: Any) -> float:
        """Returns the sum of squares, in one pass and without the squares in memory."""
        return 2.0 * float(tf.nn.l2_loss(tensor))

    @contextmanager
    def functions_in_python(self) -> Iterator[None]:
        """Runs the code of each `tf.function`, whose graph keeps random states of its own."""
        before = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(before)

    def gradients(self, function: Callable[[list[Any]], Any], values: list[Any]) -> list[Any]:
        """Returns the gradients of a number by tensors."""
        values = [tf.identity(value) for value in values]  # of one replica, within a strategy
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for value in values:
                tape.watch(value)
            result = function(values)
        zero = tf.UnconnectedGradients.ZERO
        return list(tape.gradient(result, values, unconnected_gradients=zero))


class Lent:
    """The memory of a TensorFlow tensor that nobody has seen yet, for NumPy to fill."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        memory = np.asarray(memoryview(tensor))  # read-only, as for everybody who sees a tensor
        self.__array_interface__ = {
            **memory.__array_interface__,
            "data": (memory.ctypes.data, False),
        }
