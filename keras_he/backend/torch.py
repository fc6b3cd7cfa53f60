"""PyTorch."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch
from numpy.typing import NDArray

from keras_he.backend.generic import Framework, Function


class Torch(Framework):
    """PyTorch, which takes over the memory of any array."""

    takes_gradients = True

    def to_tensor(self, array: NDArray[Any], dtype: str) -> Any:
        """Returns the array as a tensor."""
        if dtype == "bfloat16":
            tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(array)
        return keras.ops.convert_to_tensor(tensor)  # on Keras' device

    def is_tracing(self) -> bool:
        """Returns whether the code is in `torch.compile`, or where Keras infers shapes."""
        # Keras infers shapes on PyTorch's device without memory, "meta".
        return bool(torch.compiler.is_compiling() or keras.ops.zeros(()).is_meta)

    def untraced(self, function: Function) -> Function:
        """Returns the function so that `torch.compile`, which takes NumPy for PyTorch, skips it."""
        why: dict[str, Any] = {"reason": "build the layer before it is compiled: call it once"}
        known = inspect.signature(torch.compiler.disable).parameters
        disabled: Function = torch.compiler.disable(function, **(why if "reason" in known else {}))
        return disabled

    def is_symbol(self, tensor: Any) -> bool:
        """Returns whether a tensor has no memory, or is on the device without it."""
        try:
            tensor.data_ptr()  # batched and traced tensors have no memory, and raise
        except (AttributeError, RuntimeError):
            return True
        return bool(tensor.is_meta)

    def gradients(self, function: Callable[[list[Any]], Any], values: list[Any]) -> list[Any]:
        """Returns the gradients of a number by tensors."""
        leaves = [value.detach().requires_grad_() for value in values]
        result = function(leaves)
        if not result.requires_grad:
            return [torch.zeros_like(value) for value in values]
        return list(torch.autograd.grad(result, leaves, allow_unused=True, materialize_grads=True))
