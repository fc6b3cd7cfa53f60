"""What Keras alone can do: the class for its NumPy and OpenVINO backends, and the base of others.

A framework takes over the memory of an array without a copy where that is safe: where the memory is
aligned to 64 bytes. What was handed over belongs to the framework: nobody writes to the array
afterwards.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import keras
import numpy as np
from numpy.typing import NDArray

from keras_he.errors import invalid
from keras_he.sampling.regions import Part
from keras_he.sampling.stream import aligned_empty

Function = TypeVar("Function", bound=Callable[..., Any])

WORTH_SHARING = 2**16  # bytes, from which on a copy costs more than it saves


class Framework:
    """A backend of Keras whose tensors are copies of arrays, and which takes no gradients."""

    takes_gradients = False
    # Each operation of OpenVINO is compiled, so a loop over the steps of a cell takes minutes.
    runs_cells = keras.backend.backend() != "openvino"

    def empty(self, shape: Sequence[int], dtype: type[np.generic]) -> NDArray[Any]:
        """Returns an uninitialized array, in the memory that is handed over fastest."""
        if math.prod(shape) * np.dtype(dtype).itemsize < WORTH_SHARING:
            return np.empty(shape, dtype)
        return aligned_empty(shape, dtype)

    def to_tensor(self, array: NDArray[Any], dtype: str) -> Any:
        """Returns the array as a tensor, on the device that Keras would choose.

        The array is C-contiguous; for `dtype="bfloat16"` it holds the bits, as uint16.
        """
        if dtype == "bfloat16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return keras.ops.convert_to_tensor(array, dtype=dtype)

    def to_sharded(self, part: Part, shape: Sequence[int], dtype: str, layout: Any) -> Any:
        """Returns a tensor of a shape, drawn part by part, that is laid out over devices.

        The layout is a `keras.distribution.TensorLayout` or a `jax.sharding.Sharding`.
        """
        raise invalid(
            "layout",
            f"None on the {keras.backend.backend()} backend",
            layout,
            "Keras lays variables out over devices on the JAX backend only.",
        )

    def layout_of(self, variable: Any) -> Any:
        """Returns the layout of a variable that lies on several devices, else `None`."""
        return None

    def as_computed(self, layout: Any) -> AbstractContextManager[Any]:
        """Returns the context in which the variables of a distribution can be computed with."""
        return nullcontext()

    def replicas(self) -> int:
        """Returns the number of replicas that a strategy trains at the same time."""
        return 1

    def is_tracing(self) -> bool:
        """Returns whether values are symbolic here, because the code is being compiled."""
        return False

    def untraced(self, function: Function) -> Function:
        """Returns the function as compiled code calls it: outside of what is compiled."""
        return function

    def is_symbol(self, tensor: Any) -> bool:
        """Returns whether a tensor has no numbers, and stands for some."""
        return False

    def sum_of_squares(self, tensor: Any) -> float:
        """Returns the sum of the squares of the elements of a float32 tensor."""
        return float(keras.ops.convert_to_numpy(keras.ops.sum(keras.ops.square(tensor))))

    @contextmanager
    def apart(self, *, gradients: bool = False) -> Iterator[None]:
        """Runs eager code in which PyTorch records gradients only if asked.

        Other frameworks record nothing unasked. Outputs of PyTorch may come on every backend: a
        `DataLoader` gives them.
        """
        torch = sys.modules.get("torch")
        if torch is None:
            yield
            return
        with torch.set_grad_enabled(gradients):
            yield

    def functions_in_python(self) -> AbstractContextManager[Any]:
        """Returns the context in which functions that would be compiled run as Python code."""
        return nullcontext()

    def gradients(self, function: Callable[[list[Any]], Any], values: list[Any]) -> list[Any]:
        """Returns the gradients of `function(values)`, a number, by each of the values.

        The code of the function is eager. A gradient is zeros where nothing depends on the value.
        """
        raise invalid(
            "KERAS_BACKEND",
            '"tensorflow", "jax" or "torch" to take gradients',
            keras.backend.backend(),
        )

    def double_precision(self) -> AbstractContextManager[Any]:
        """Returns the context in which float64 is computed in float64."""
        return nullcontext()
