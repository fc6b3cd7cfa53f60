"""The hand-over of a kernel to many devices: each process draws the shards that it holds, once.

Keras gives an initializer the variable's `layout` from 3.15 on, on JAX, under a
`keras.distribution`. What is drawn for one shard is placed on every device that holds the same
shard before the next one is drawn, so a process holds its own shards and the few blocks that are
being drawn.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras

from keras_he.backend.tensors import is_tracing, to_jax_dtype, to_tensor
from keras_he.errors import invalid
from keras_he.sampling.regions import WHOLE, Part, limits


def to_sharded(part: Part, shape: Sequence[int], dtype: str, layout: Any) -> Any:
    """Returns a tensor that is laid out over devices.

    Args:
        part: Returns a region of the tensor as an array, as `keras_he.sampling.stream.draw` does.
        shape: Shape of the whole tensor.
        dtype: Dtype of the tensor.
        layout: A `keras.distribution.TensorLayout` or a `jax.sharding.Sharding`.

    Raises:
        InvalidArgument: If the backend is not JAX, or the layout names no devices.
    """
    sharding = _sharding(layout)
    import jax

    if is_tracing():
        kernel = to_tensor(part(WHOLE), dtype)
        return jax.lax.with_sharding_constraint(kernel, sharding)
    holders: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, region in sharding.addressable_devices_indices_map(tuple(shape)).items():
        holders.setdefault(limits(shape, region), []).append(device)
    shards = []
    for bounds, devices in holders.items():
        values = to_jax_dtype(part(tuple(slice(*bound) for bound in bounds)), dtype)
        for device in devices:
            place = jax.sharding.SingleDeviceSharding(device, memory_kind=sharding.memory_kind)
            shards.append(jax.device_put(values, place))
    return jax.make_array_from_single_device_arrays(tuple(shape), sharding, shards)


def layout_of(variable: Any) -> Any:
    """Returns the layout of a variable that lies on several devices, else `None`."""
    sharding = getattr(variable.value, "sharding", None)  # of JAX alone
    return sharding if len(getattr(sharding, "device_set", ())) > 1 else None


def as_computed(layout: Any) -> AbstractContextManager[Any]:
    """Returns the context in which the variables of a distribution can be computed with.

    Keras calls initializers where the mesh has explicit axes, which those variables do not have.
    """
    if layout is None or keras.backend.backend() != "jax":
        return nullcontext()
    import jax

    mesh = jax.sharding.get_mesh()
    return nullcontext() if mesh.empty else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def _sharding(layout: Any) -> Any:
    """Returns the sharding of a layout over devices that are there."""
    if keras.backend.backend() != "jax":
        raise invalid(
            "layout",
            f"None on the {keras.backend.backend()} backend",
            layout,
            "Keras lays variables out over devices on the JAX backend only.",
        )
    import jax

    sharding = layout
    if isinstance(layout, keras.distribution.TensorLayout):
        sharding = layout.backend_layout
    named = isinstance(sharding, jax.sharding.NamedSharding)
    if named and isinstance(sharding.mesh, jax.sharding.AbstractMesh):
        # Keras gives the layout without its devices, and sets the mesh that has them.
        mesh = sharding.mesh if is_tracing() else jax.sharding.get_mesh()
        if not mesh.empty:
            return jax.sharding.NamedSharding(mesh, sharding.spec, memory_kind=sharding.memory_kind)
    elif isinstance(sharding, jax.sharding.Sharding):
        return sharding
    raise invalid(
        "layout",
        "a `keras.distribution.TensorLayout` with a device mesh, or a `jax.sharding.Sharding`",
        layout,
        "A layout over an abstract mesh has its devices within `jax.set_mesh(mesh)`.",
    )
