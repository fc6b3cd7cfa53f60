"""Names of Keras' own insides, for what Keras has no public way; no other module uses one.

| name | for | tried on Keras |
|---|---|---|
| `Layer._flatten_layers` | layers directly inside a layer | 3.12.4, 3.15.1, 3.16.0.dev20261027 |
| `Layer._trainable_variables` | trainable weights, frozen ones too | the same |
| `ALL_OBJECTS_DICT` | strings, where `keras.initializers.get` sees no others | 3.16.0.dev20261027 |
"""

import inspect
from collections.abc import Container
from typing import Any

import keras


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers directly inside `layer`, each once, in the order they were set."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def layers_inside(
    layer: keras.layers.Layer, closed: tuple[type, ...] = ()
) -> list[keras.layers.Layer]:
    """Returns a layer and all layers inside it, each once, but nothing inside `closed` types."""
    found: dict[int, keras.layers.Layer] = {}
    waiting = [layer]
    while waiting:
        one = waiting.pop()
        if id(one) not in found:
            found[id(one)] = one
            if not isinstance(one, closed):
                waiting.extend(reversed(sublayers(one)))
    return list(found.values())


def holds(layer: Any, found: Container[int]) -> bool:
    """Returns whether a layer, or one inside it, has its identity in `found`; operations do not."""
    if not isinstance(layer, keras.layers.Layer):
        return False
    return any(id(inner) in found for inner in layers_inside(layer))


def own_variables(layer: keras.layers.Layer) -> list[Any]:
    """Returns the variables that `layer` alone holds, the states of seed generators included."""
    inner = {id(variable) for child in sublayers(layer) for variable in child.variables}
    return [variable for variable in layer.variables if id(variable) not in inner]


def own_trainable_weights(layer: keras.layers.Layer) -> list[Any]:
    """Returns the trainable weights that `layer` alone holds, frozen ones included."""
    inner = {id(weight) for child in sublayers(layer) for weight in child.weights}
    return [weight for weight in layer._trainable_variables if id(weight) not in inner]


def built_in_initializers() -> dict[str, Any] | None:
    """Returns the table in which `keras.initializers.get` looks strings up, `None` without one."""
    function = inspect.unwrap(keras.initializers.get)
    table = getattr(function, "__globals__", {}).get("ALL_OBJECTS_DICT")
    return table if isinstance(table, dict) else None
