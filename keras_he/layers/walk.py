"""Every layer inside a layer or a model, where it stands, and the kernels that it holds itself.

A layer that holds trainable weights without a rule is reported as a problem, never guessed.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras

from keras_he.backend.foreign import hint
from keras_he.backend.keras_private import (
    attributes,
    is_lora,
    is_of_keras,
    own_trainable_weights,
    own_variables,
    sublayers,
)
from keras_he.errors import InvalidArgument, invalid
from keras_he.layers import rules
from keras_he.layers.rules import Kernels, Rule, no_kernels
from keras_he.notes import NO_NOTE, Note
from keras_he.theory.kernel_geometry import DEFAULTS, Fans, Geometry, geometry_fans, make_geometry


class Kernel(NamedTuple):
    """A kernel of a layer: the variable, and how the layer uses it."""

    variable: Any
    geometry: Geometry


def layer_fans(layer: keras.layers.Layer) -> dict[str, Fans]:
    """Returns the fans of each kernel of a built layer, as the layer uses it.

    Args:
        layer: Any built layer, layers inside layers and models included.

    Returns:
        From the kernel's name to its `Fans`. The name is that of the layer's attribute
        (`"kernel"`, `"recurrent_kernel"`, `"depthwise_kernel"`), after the names of the layers on
        the way to it (`"query/kernel"`, `"forward_layer/kernel"`). Biases, slopes, the parameters
        of normalisations, LoRA's pairs and untrained weights are no kernels.

    Raises:
        InvalidArgument: If the layer is not built, or holds trainable weights that no rule speaks
            of; all such layers are named in one error.

    Example:
        >>> import keras, keras_he
        >>> layer = keras.layers.SeparableConv2D(32, 3)
        >>> layer.build((None, 16, 16, 8))
        >>> keras_he.layer_fans(layer)["depthwise_kernel"]
        Fans(fan_in=9.0, fan_out=9.0)
        >>> keras_he.layer_fans(layer)["pointwise_kernel"]
        Fans(fan_in=8.0, fan_out=32.0)
    """
    return {
        name: geometry_fans(kernel.variable.shape, kernel.geometry)
        for name, kernel in layer_kernels(layer).items()
    }


class Place(NamedTuple):
    """A layer at its place in another layer.

    Attributes:
        layer: The layer.
        path: Names of the layers on the way to it.
        key: The same with automatic names (`dense_12` counts the layers of a process) replaced by
            the type of the layer, so that it depends on the place alone.
        outer: The layers that contain it.
        kernels: The kernels that it holds itself, by attribute.
        problem: Why its kernels are not known; empty where they are.
        closed: Whether nothing is known of the layers inside it.
    """

    layer: keras.layers.Layer
    path: str
    key: str
    outer: tuple[keras.layers.Layer, ...]
    kernels: Mapping[str, Kernel]
    problem: Note = NO_NOTE
    closed: bool = False


def layer_kernels(layer: keras.layers.Layer) -> dict[str, Kernel]:
    """Returns the kernels of a built layer by name; see `layer_fans`."""
    if not isinstance(layer, keras.layers.Layer):
        raise invalid("layer", "a Keras layer", layer, hint(layer))
    kernels: dict[str, Kernel] = {}
    problems: list[str] = []
    for place in places(layer):
        kernels.update({join(place.path, name): one for name, one in place.kernels.items()})
        if place.problem:
            problems.append(f"{layer.name}/{place.path}".rstrip("/") + f": {place.problem}")
    if problems:
        raise InvalidArgument("`layer` must have known kernels.\n" + "\n".join(problems))
    return kernels


def places(layer: keras.layers.Layer) -> Iterator[Place]:
    """Yields a layer and all layers inside it; one that is used twice stands there twice."""
    return _places(layer, "", "", ())


def _places(
    layer: keras.layers.Layer, path: str, key: str, outer: tuple[keras.layers.Layer, ...]
) -> Iterator[Place]:
    known = next((cls for cls in type(layer).__mro__ if cls in rules.RULES), None)
    rule = rules.RULES[known] if known else None
    if not layer.built:
        if _may_hold_kernels(layer, rule):
            text = f"{type(layer).__name__} is not built. Call it once, or its `build`."
            yield Place(layer, path, key, outer, {}, Note("not-built", text), closed=True)
            return
        rule = None
    try:
        spoken = _checked(rule(layer)) if rule else {}
        own, inside = _own_kernels(layer, spoken), _inside(layer, spoken)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, InvalidArgument) else repr(error)
        text = f"the rule of {known.__name__ if known else None} failed: {reason}"
        yield Place(layer, path, key, outer, {}, Note("rule-failed", text), closed=True)
        return
    unknown = [] if known is type(layer) else _unspoken_weights(layer, known, own)
    yield Place(layer, path, key, outer, own, _no_rule(layer, unknown) if unknown else NO_NOTE)
    keys = _keys(inside, spoken)
    for name, inner in inside.items():
        yield from _places(inner, join(path, name), join(key, keys[name]), (*outer, layer))


def join(path: str, name: str) -> str:
    """Returns the path of what is called `name` at `path`; either may be empty."""
    return "/".join(part for part in (path, name) if part)


def _keys(inside: Mapping[str, keras.layers.Layer], spoken: Kernels) -> dict[str, str]:
    """Returns, by name, what tells the layers inside apart whatever they are called.

    That is the name that the user or a rule gave; else the type, of a layer that holds none the
    shapes of its kernels, and the number among the like: another kind elsewhere changes nothing.
    """
    keys: dict[str, str] = {}
    alike: Counter[str] = Counter()
    for name, inner in inside.items():
        cls = type(inner).__name__
        automatic = rf"{cls.replace('_', '')}\d*"  # Conv2D: conv2d, conv2d_1, conv2d_1_2
        if name in spoken or not re.fullmatch(automatic, name.replace("_", ""), re.IGNORECASE):
            keys[name] = name
            continue
        shapes = [tuple(one.shape) for one in inner.weights if len(one.shape) > 1]
        kind = cls if sublayers(inner) else f"{cls}{shapes}"
        keys[name] = f"{kind}#{alike[kind]}"
        alike[kind] += 1
    return keys


def _may_hold_kernels(layer: keras.layers.Layer, rule: Rule | None) -> bool:
    """Returns whether an unbuilt layer can have kernels once it is built."""
    if rule is not None:
        return rule is not no_kernels
    # Layers of Keras without a rule have none; others make theirs in `build`, or hold layers.
    own_build = type(layer).build is not keras.layers.Layer.build
    return own_build and not is_of_keras(layer)


def _checked(rule: Any) -> Kernels:
    """Returns what a rule said, if it has the form that `register_kernels` asks for."""
    form = "a dict from attributes to arguments of `keras_he.fans`"
    if not isinstance(rule, Mapping):
        raise invalid("kernels", form, rule)
    for arguments in rule.values():
        if isinstance(arguments, keras.layers.Layer):
            continue
        if not isinstance(arguments, Mapping) or not set(arguments) <= set(DEFAULTS):
            raise invalid("kernels", f"{form}: {', '.join(DEFAULTS)}", arguments)
    return rule


def _own_kernels(layer: keras.layers.Layer, rule: Kernels) -> dict[str, Kernel]:
    kernels = {}
    for attribute, arguments in rule.items():
        if isinstance(arguments, keras.layers.Layer):
            continue
        kernel = Kernel(_held(layer, attribute), make_geometry(**{**DEFAULTS, **arguments}))
        geometry_fans(kernel.variable.shape, kernel.geometry)  # raises where they do not fit
        kernels[attribute] = kernel
    return kernels


def _held(layer: keras.layers.Layer, attribute: str) -> Any:
    """Returns the variable of a kernel, or of a packed one (int4) the tensor that it stands for."""
    held = getattr(layer, attribute)
    if isinstance(held, keras.Variable):
        return held
    # Under LoRA the attribute is the sum of the variable and what is trained beside it.
    named = (one for one in own_variables(layer) if one.name == attribute)
    return next((one for one in named if tuple(one.shape) == tuple(held.shape)), held)


def _inside(layer: keras.layers.Layer, rule: Kernels) -> dict[str, keras.layers.Layer]:
    """Returns the layers inside by name: those the rule names, then the others by their own."""
    inside = {name: inner for name, inner in rule.items() if isinstance(inner, keras.layers.Layer)}
    spoken_for = {id(inner) for inner in inside.values()}
    for inner in sublayers(layer):
        if id(inner) not in spoken_for:
            name, copies = inner.name, 1
            while name in inside:  # names are unique within a model, not within a layer
                copies += 1
                name = f"{inner.name}_{copies}"
            inside[name] = inner
    return inside


def _unspoken_weights(
    layer: keras.layers.Layer, known: type | None, own: Mapping[str, Kernel]
) -> list[Any]:
    """Returns the trainable weights that the layer holds itself and no rule speaks of.

    Where a base class has a rule, its bias, LoRA's pair, and vectors are spoken for.
    """
    weights = own_trainable_weights(layer)
    if known is None:
        return weights
    spoken_for = {id(kernel.variable) for kernel in own.values()} | {
        id(getattr(layer, "bias", None))
    }
    return [
        weight
        for weight in weights
        if id(weight) not in spoken_for and len(weight.shape) > 1 and not is_lora(weight)
    ]


def _no_rule(layer: keras.layers.Layer, weights: list[Any]) -> Note:
    cls = type(layer).__name__
    named = ", ".join(f"{weight.name} {tuple(weight.shape)}" for weight in weights)
    held = (name for name, value in attributes(layer).items() if value is weights[0])
    return Note(
        "no-rule",
        f"no rule says how {cls} uses {named}. Say it with `keras_he.register_kernels({cls}, "
        f'lambda layer: {{"{next(held, weights[0].name)}": {{…}}}})`, with the arguments of '
        "`keras_he.fans`.",
    )


def layer_paths(survey: Iterable[Place]) -> dict[int, str]:
    """Returns the path of each layer by its identity; of a shared layer the first."""
    paths: dict[int, str] = {}
    for place in survey:
        paths.setdefault(id(place.layer), place.path or place.layer.name)
    return paths


def not_built(survey: Iterable[Place]) -> list[Note]:
    """Returns a note for each layer that has no weights yet."""
    problems = {place.path: place.problem for place in survey if place.problem.kind == "not-built"}
    return [Note("not-built", f"not built: {path}: {why}") for path, why in problems.items()]
