"""Models that load without keras_he: our initializers become Keras' own, with fixed numbers.

None becomes a `VarianceScaling`: its fans are wrong for depthwise and transposed kernels, and its
config differs between Keras versions.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from keras_he.backend.keras_private import argument_of, attributes, layers_inside
from keras_he.errors import NotPortable
from keras_he.initializers.kaiming import Kaiming
from keras_he.initializers.names import names
from keras_he.layers.kinds import ATTENTIONS
from keras_he.layers.variables import ModelVariable, variables
from keras_he.layers.walk import Kernel, layer_paths, places
from keras_he.passes.model_checks import check_model
from keras_he.sampling.laws import LAWS
from keras_he.theory.kernel_geometry import Geometry, geometry_fans


class Replacement(NamedTuple):
    """An initializer that became one of Keras'.

    Attributes:
        layer: Path of the layer.
        attribute: Its attribute.
        before: The initializer of keras_he. For an attention whose kernels `initialize` measured
            one by one: the initializer that its config has for all of them.
        after: The initializer of Keras.
        note: What differs; empty if a re-drawn kernel has the same law.
    """

    layer: str
    attribute: str
    before: Any
    after: Any
    note: str = ""


def make_portable(model: keras.Model) -> tuple[Replacement, ...]:
    """Replaces every initializer of keras_he in a model by a Keras built-in; weights stay.

    The saved model loads without keras_he. Kernels that are re-drawn from its config have the same
    law and standard deviation, and other values.

    Args:
        model: A built model.

    Returns:
        What was replaced, each with a note where no built-in is equal.

    Raises:
        InvalidArgument: If it is no model.
        NotPortable: If the config would still name keras_he, because a layer of your own keeps an
            initializer's string, or if Keras has no initializer of a law. Nothing is changed then.

    Example:
        >>> import keras, keras_he
        >>> model = keras.Sequential([keras.Input((8,)),
        ...                           keras.layers.Dense(4, kernel_initializer="he_linear")])
        >>> [one.attribute for one in keras_he.make_portable(model)]
        ['kernel_initializer']
        >>> round(model.layers[0].kernel_initializer.stddev, 4)  # 1 / sqrt(8)
        0.3536
    """
    check_model(model)
    survey = list(places(model))
    paths = layer_paths(survey)
    found = variables(model, survey, ModelVariable)
    changes = [
        _change(layer, name, value, paths.get(id(layer), layer.name), found)
        for layer in layers_inside(model)
        for name, value in attributes(layer).items()
    ]
    changes = [one for one in changes if one.made]
    try:
        for one in changes:
            setattr(one.layer, one.attribute, one.after)
        _check_config(model)
    except BaseException:
        for one in changes:
            setattr(one.layer, one.attribute, one.before)
        raise
    return tuple(replacement for one in changes for replacement in one.made)


class _Change(NamedTuple):
    """What an attribute holds before and after, and the initializers that are replaced in it."""

    layer: Any
    attribute: str
    before: Any
    after: Any
    made: list[Replacement]


def _change(layer: Any, name: str, value: Any, path: str, found: list[ModelVariable]) -> _Change:
    made: list[Replacement] = []

    def exchange(ours: Any) -> Any:
        made.append(_replacement(layer, name, ours, path, found))
        return made[-1].after

    if _shares_ours(layer, name, value, found):
        return _Change(layer, name, value, exchange(value), made)
    return _Change(layer, name, value, _exchanged(value, exchange), made)


def _shares_ours(layer: Any, name: str, value: Any, found: list[ModelVariable]) -> bool:
    """Returns whether an attention holds a built-in, and its kernels have our initializers.

    `initialize` does so: it measures a gain per kernel, and a config has one initializer.
    """
    if not (isinstance(layer, ATTENTIONS) and argument_of(name) == "kernel_initializer"):
        return False
    made = _made(layer, name, value, found)
    return not _is_ours(value) and any(_is_ours(_initializer(variable)) for variable in made)


def _exchanged(value: Any, exchange: Callable[[Kaiming], Any]) -> Any:
    """Returns the value of an attribute, in any nesting, with our initializers exchanged."""
    if _is_ours(value):
        return exchange(value)
    if not isinstance(value, (dict, list, tuple)):
        return value
    held = list(value.values() if isinstance(value, dict) else value)
    new = [_exchanged(one, exchange) for one in held]
    if all(one is other for one, other in zip(held, new, strict=True)):
        return value
    if isinstance(value, dict):
        return dict(zip(value, new, strict=True))
    if hasattr(value, "_fields"):  # a named tuple
        return type(value)(*new)
    return tuple(new) if isinstance(value, tuple) else new


def _check_config(model: Any) -> None:
    """Refuses a model whose config still names keras_he."""
    try:
        config = model.get_config()
    except NotImplementedError:  # of a subclassed model, whose config its author writes
        return
    plain = json.loads(json.dumps(config, default=lambda one: getattr(one, "__dict__", str(one))))
    strings, known = list(_strings(plain)), names()
    called = {text for key, text in strings if key == "name"}  # layers, wherever they stand
    ours = {text for _, text in strings if text in known or re.match(r"keras_he(>|\.|$)", text)}
    if left := sorted(ours - called):
        raise NotPortable(
            f"The config of `{model.name}` must not name keras_he. It has {', '.join(left)}, which "
            "a layer of your own keeps. Give the layer a Keras initializer, or its `get_config` "
            "`keras.initializers.serialize(self.kernel_initializer)`."
        )


def _strings(config: Any) -> Iterator[tuple[str, str]]:
    """Yields the keys and strings of a config; strings in a list have the list's key."""
    waiting = [("", config)]
    while waiting:
        key, one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.items()
        elif isinstance(one, list):
            waiting += [(key, value) for value in one]
        elif isinstance(one, str):
            yield key, one


def _replacement(
    layer: Any, attribute: str, initializer: Any, path: str, found: list[ModelVariable]
) -> Replacement:
    """Returns the replacement of an initializer."""
    made = _made(layer, attribute, initializer, found)
    if not made and not layer.built:
        raise NotPortable(
            f"`{path}` must be built: the number of a Keras initializer follows from a kernel's "
            "shape. Call it once, or give it a Keras initializer."
        )
    if not made:  # a layer without a rule: the layers inside count as its own
        made = _made(layer, attribute, initializer, variables(layer, places(layer), ModelVariable))
    if not made:
        zeros = keras.initializers.Zeros()
        return Replacement(path, attribute, initializer, zeros, "it made no variable")
    # The initializer of an attention's kernel may differ from the one in the config.
    makers = [
        (one if _is_ours(one := _initializer(variable)) else initializer, variable)
        for variable in made
    ]
    makers = [(one, variable) for one, variable in makers if _is_ours(one)]
    numbers = [_number(one, variable) for one, variable in makers]
    mean = math.exp(sum(math.log(one) for one in numbers) / len(numbers))
    after, note = _built_in(*makers[0], mean)
    if max(numbers) > 1.001 * min(numbers):
        name = "gain" if _is_orthogonal(makers[0][0]) else "standard deviation"
        several = f"kernels of {name} {min(numbers):.3g} to {max(numbers):.3g} share it"
        note = f"{several}: their geometric mean"
    return Replacement(path, attribute, initializer, after, note)


def _made(
    layer: Any, attribute: str, initializer: Any, found: list[ModelVariable]
) -> list[ModelVariable]:
    """Returns the variables that an attribute initializes, in the layer or in layers inside."""
    own = [variable for variable in found if variable.layer is layer]
    named = [
        variable
        for variable in own
        if attribute in (_attribute(variable), f"{variable.name}_initializer")
    ]
    layers = {id(one) for one in layers_inside(layer)} - {id(layer)}
    inside = [variable for variable in found if id(variable.layer) in layers]
    handed = [variable for variable in inside if _equal(_initializer(variable), initializer)]
    # One attribute of an attention initializes the kernels of all its projections.
    shared = [
        variable
        for variable in inside
        if variable.shared_attribute and argument_of(attribute) == f"{variable.name}_initializer"
    ]
    kept = attributes(layer).values()  # a custom layer may give its kernel any name
    held = [one for one in kept if isinstance(one, keras.initializers.Initializer)]
    unnamed = [variable for variable in own if len(variable.shape) > 1 and not _attribute(variable)]
    if not named and (len(held) == 1 or not (handed or shared)):
        named = unnamed
    return [*named, *(handed or shared)]


def _attribute(variable: ModelVariable) -> str:
    return variable.initializer_attribute or ""


def _is_ours(initializer: Any) -> bool:
    return isinstance(initializer, Kaiming)


def _initializer(variable: ModelVariable) -> Any:
    return getattr(variable.layer, _attribute(variable), None)


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one.get_config() == other.get_config()


def _number(initializer: Any, variable: ModelVariable) -> float:
    """Returns the standard deviation of a kernel, or the gain of Keras' `Orthogonal`."""
    kernel, geometry = _kernel(variable), initializer.kernel_geometry
    shape = variable.shape if kernel is None else tuple(kernel.variable.shape)
    if isinstance(variable.layer, keras.layers.EinsumDense) and kernel is not None:
        geometry = kernel.geometry
    std: float = initializer.standard_deviation(geometry_fans(shape, geometry))
    if not _is_orthogonal(initializer):
        return std
    return std * math.sqrt(max(math.prod(shape[:-1]), shape[-1]))


def _kernel(variable: ModelVariable) -> Kernel | None:
    """Returns the kernel that a variable holds; one that is packed (int4) has another shape."""
    kernels = next(places(variable.layer)).kernels
    return kernels.get(variable.name)


def _built_in(initializer: Any, variable: ModelVariable, number: float) -> tuple[Any, str]:
    """Returns the built-in of Keras with an initializer's law, and how it differs."""
    built_in = LAWS[initializer.law].built_in
    if built_in is None:
        raise NotPortable(
            f"`{variable.path}` must have an initializer whose law Keras has too. It has "
            f"{initializer}.\nGive its layer one of Keras first; the weights stay. One of the same "
            f"standard deviation is `keras.initializers.RandomNormal(stddev={number:.6g})`."
        )
    seed = initializer.get_config().get("seed")
    note = "its generator's seed is left out" if isinstance(seed, dict) else ""
    seed = seed % 2**31 if isinstance(seed, int) else None
    kernel = _kernel(variable)
    if _is_orthogonal(initializer) and kernel is not None and kernel.geometry != Geometry():
        note = "one orthogonal matrix for the whole kernel, not one per block"
    class_name, arguments = built_in(number)
    return getattr(keras.initializers, class_name)(**arguments, seed=seed), note


def _is_orthogonal(initializer: Any) -> bool:
    return LAWS[initializer.law].fill is None
