"""JAX, and kernels that lie on many devices: each process draws the shards that it holds, once.

Keras gives an initializer the variable's `layout` from 3.15 on, under a `keras.distribution`. What
is drawn for one shard is placed on every device that holds the same shard before the next one is
drawn, so a process holds its own shards and the few blocks that are being drawn.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import jax
import keras
from numpy.typing import NDArray

from keras_he.backend.generic import Framework
from keras_he.errors import invalid
from keras_he.sampling.regions import WHOLE, Part, limits


class Jax(Framework):
    """JAX."""

    takes_gradients = True

    def to_tensor(self, array: NDArray[Any], dtype: str) -> Any:
        """Returns the array as a tensor."""
        array = _in_jax_dtype(array, dtype)
        # Both ways share aligned memory and copy other memory. The first takes half of the time,
        # but commits the tensor to its device, so it is for where there is no other device.
        place = _only_place(jax.local_devices()[0])
        if place is not None:
            return jax.make_array_from_callback(array.shape, place, lambda _: array)
        with jax.ensure_compile_time_eval():  # numbers, which outlive a trace, as the first's are
            return jax.device_put(array)

    def to_sharded(self, part: Part, shape: Sequence[int], dtype: str, layout: Any) -> Any:
        """Returns a tensor that is laid out over devices."""
        sharding = self._sharding(layout)
        if self.is_tracing():
            kernel = self.to_tensor(part(WHOLE), dtype)
            return jax.lax.with_sharding_constraint(kernel, sharding)
        holders: dict[tuple[tuple[int, int], ...], list[Any]] = {}
        for device, region in sharding.addressable_devices_indices_map(tuple(shape)).items():
            holders.setdefault(limits(shape, region), []).append(device)
        shards = []
        for bounds, devices in holders.items():
            values = _in_jax_dtype(part(tuple(slice(*bound) for bound in bounds)), dtype)
            for device in devices:
                place = jax.sharding.SingleDeviceSharding(device, memory_kind=sharding.memory_kind)
                shards.append(jax.device_put(values, place))
        return jax.make_array_from_single_device_arrays(tuple(shape), sharding, shards)

    def layout_of(self, variable: Any) -> Any:
        """Returns the sharding of a variable that lies on several devices, else `None`."""
        sharding = getattr(variable.value, "sharding", None)
        return sharding if len(getattr(sharding, "device_set", ())) > 1 else None

    def as_computed(self, layout: Any) -> AbstractContextManager[Any]:
        """Returns the context in which the variables of a distribution can be computed with.

        Keras calls initializers where the mesh has explicit axes, which those variables do not
        have.
        """
        mesh = None if layout is None else jax.sharding.get_mesh()
        if mesh is None or mesh.empty:
            return nullcontext()
        return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)

    def is_tracing(self) -> bool:
        """Returns whether the code is in a `jax.jit`, or another transformation of JAX."""
        return isinstance(jax.numpy.zeros(()), jax.core.Tracer)

    def is_symbol(self, tensor: Any) -> bool:
        """Returns whether a tensor is a tracer."""
        return isinstance(tensor, jax.core.Tracer)

    def gradients(self, function: Callable[[list[Any]], Any], values: list[Any]) -> list[Any]:
        """Returns the gradients of a number by tensors."""
        return list(jax.grad(function)(values))

    def double_precision(self) -> AbstractContextManager[Any]:
        """Returns the context in which JAX computes in float64, as other frameworks do if asked."""
        if hasattr(jax, "enable_x64"):
            return jax.enable_x64(True)
        return jax.experimental.enable_x64()  # before JAX 0.8

    def _sharding(self, layout: Any) -> Any:
        """Returns the sharding of a layout, with its devices."""
        is_keras = isinstance(layout, keras.distribution.TensorLayout)
        sharding = layout.backend_layout if is_keras else layout
        named = isinstance(sharding, jax.sharding.NamedSharding)
        if named and isinstance(sharding.mesh, jax.sharding.AbstractMesh):
            # Keras gives the layout without its devices, and sets the mesh that has them.
            mesh = sharding.mesh if self.is_tracing() else jax.sharding.get_mesh()
            if not mesh.empty:
                kind = sharding.memory_kind
                return jax.sharding.NamedSharding(mesh, sharding.spec, memory_kind=kind)
        elif isinstance(sharding, jax.sharding.Sharding):
            return sharding
        raise invalid(
            "layout",
            "a `keras.distribution.TensorLayout` with a device mesh, or a `jax.sharding.Sharding`",
            layout,
            "A layout over an abstract mesh has its devices within `jax.set_mesh(mesh)`.",
        )


def _in_jax_dtype(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Returns the array in the dtype that it has in JAX."""
    if dtype == "bfloat16":
        return array.view(jax.numpy.bfloat16)
    if dtype == "float64":
        # Without `jax_enable_x64` JAX has no float64, and warns of it at every draw.
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
    return array


@lru_cache(maxsize=1)
def _only_place(device: Any) -> Any:
    """Returns where all tensors of JAX lie if there is one device, a CPU, and None otherwise."""
    alone = jax.device_count() == 1 and device.platform == "cpu"
    return jax.sharding.SingleDeviceSharding(device) if alone else None
