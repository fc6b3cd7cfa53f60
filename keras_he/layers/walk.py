"""Every layer inside a layer or a model, where it stands, and the kernels that it holds itself.

A layer that holds trainable weights without a rule is reported as a problem, never guessed.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_he.backend.foreign import hint
from keras_he.backend.keras_private import Own, is_lora, is_of_keras, own, own_of_all
from keras_he.errors import InvalidArgument, invalid
from keras_he.layers import rules
from keras_he.layers.kinds import is_random
from keras_he.layers.rules import Kernels, Rule, no_kernels
from keras_he.notes import NO_NOTE, Note
from keras_he.theory.kernel_geometry import DEFAULTS, Fans, Geometry, geometry_fans, make_geometry


class Kernel(NamedTuple):
    """A kernel of a layer: the variable, and how the layer uses it; see `ModelVariable`."""

    variable: Any
    geometry: Geometry
    fans: Fans
    arguments: dict[str, Any]


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
    return {name: kernel.fans for name, kernel in layer_kernels(layer).items()}


class Place(NamedTuple):
    """A layer at its place in another layer.

    Attributes:
        layer: The layer.
        path: Names of the layers on the way to it.
        key: The same with automatic names (`dense_12` counts the layers of a process) replaced by
            the type of the layer, so that it depends on the place alone.
        outer: The layers that contain it.
        variables: The variables that it holds itself; of a closed one, all inside it too.
        attributes: What it holds by attribute, without what its properties return.
        kernels: The kernels among its variables, by attribute.
        problem: Why its kernels are not known; empty where they are.
        closed: Whether nothing is known of the layers inside it.
    """

    layer: keras.layers.Layer
    path: str
    key: str
    outer: tuple[keras.layers.Layer, ...]
    variables: Sequence[Any]
    attributes: Mapping[str, Any]
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
    return _places(layer, own_of_all(layer), "", "", ())


def _places(
    layer: keras.layers.Layer,
    held: Mapping[int, Own],
    path: str,
    key: str,
    outer: tuple[keras.layers.Layer, ...],
) -> Iterator[Place]:
    known = next((cls for cls in type(layer).__mro__ if cls in rules.RULES), None)
    rule = rules.RULES[known] if known else None
    mine = held.get(id(layer)) or own(layer)  # a rule may name a layer that Keras does not track
    closed = Place(layer, path, key, outer, layer.variables, mine.attributes, {}, closed=True)
    if not layer.built:
        # A layer may never be called itself, where another calls its parts.
        parts_are_built = rule is None and any(one.built for one in mine.layers)
        if _may_hold_kernels(layer, rule) and not parts_are_built:
            text = f"{type(layer).__name__} is not built. Call it once, or its `build`."
            yield closed._replace(problem=Note("not-built", text))
            return
        rule = None
    try:
        ruled = _checked(rule(layer)) if rule else {}
        kernels, inside = _kernels(layer, mine, ruled), _inside(mine, ruled)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, InvalidArgument) else repr(error)
        text = f"the rule of {known.__name__ if known else None} failed: {reason}"
        yield closed._replace(problem=Note("rule-failed", text))
        return
    unknown = [] if known is type(layer) else _uncovered_weights(layer, known, mine, kernels)
    problem = _no_rule(layer, mine, unknown) if unknown else NO_NOTE
    yield Place(layer, path, key, outer, mine.variables, mine.attributes, kernels, problem)
    for name, inner_key in _keys(inside, ruled, held).items():
        places_inside = join(path, name), join(key, inner_key)
        yield from _places(inside[name], held, *places_inside, (*outer, layer))


def join(path: str, name: str) -> str:
    """Returns the path of what is called `name` at `path`; either may be empty."""
    return f"{path}/{name}" if path and name else path or name


def _keys(
    inside: Mapping[str, keras.layers.Layer], ruled: Kernels, held: Mapping[int, Own]
) -> dict[str, str]:
    """Returns, by name, keys of the layers inside that do not depend on automatic names.

    A key is the name that the user or a rule gave. Otherwise it is the type, the shapes of the
    weights of a layer that contains no others, and a number among equal ones.
    """
    keys: dict[str, str] = {}
    equal: Counter[str] = Counter()
    for name, inner in inside.items():
        cls = type(inner).__name__
        automatic = rf"{cls.replace('_', '')}\d*"  # Conv2D: conv2d, conv2d_1, conv2d_1_2
        if name in ruled or not re.fullmatch(automatic, name.replace("_", ""), re.IGNORECASE):
            keys[name] = name
            continue
        shapes = [tuple(one.shape) for one in inner.weights if len(one.shape) > 1]
        nested = (held.get(id(inner)) or own(inner)).layers
        kind = cls if nested else f"{cls}{shapes}"
        keys[name] = f"{kind}#{equal[kind]}"
        equal[kind] += 1
    return keys


def _may_hold_kernels(layer: keras.layers.Layer, rule: Rule | None) -> bool:
    """Returns whether an unbuilt layer may have kernels after it is built."""
    if rule is not None:
        return rule is not no_kernels
    # Layers of Keras without a rule have none; others make theirs in `build`, or hold layers.
    own_build = type(layer).build is not keras.layers.Layer.build
    return own_build and not is_of_keras(layer)


def _checked(rule: Any) -> Kernels:
    """Returns what a rule returned, if it has the form that `register_kernels` asks for."""
    form = "a dict from attributes to arguments of `keras_he.fans`"
    if not isinstance(rule, Mapping):
        raise invalid("kernels", form, rule)
    for arguments in rule.values():
        if isinstance(arguments, keras.layers.Layer):
            continue
        if not isinstance(arguments, Mapping) or not set(arguments) <= set(DEFAULTS):
            raise invalid("kernels", f"{form}: {', '.join(DEFAULTS)}", arguments)
    return rule


def _kernels(layer: keras.layers.Layer, mine: Own, rule: Kernels) -> dict[str, Kernel]:
    kernels = {}
    for attribute, arguments in rule.items():
        if isinstance(arguments, keras.layers.Layer):
            continue
        variable = _held(layer, mine, attribute)
        geometry = make_geometry(**arguments)
        fans = geometry_fans(variable.shape, geometry)  # raises where they do not fit
        kernels[attribute] = Kernel(variable, geometry, fans, geometry.arguments())
    return kernels


def _held(layer: keras.layers.Layer, mine: Own, attribute: str) -> Any:
    """Returns the variable of a kernel, or the tensor that a packed kernel (int4) stands for."""
    held = getattr(layer, attribute)
    if isinstance(held, keras.Variable):
        return held
    # Under LoRA the attribute is the sum of the variable and of the product of a trained pair.
    named = (one for one in mine.variables if one.name == attribute)
    return next((one for one in named if tuple(one.shape) == tuple(held.shape)), held)


def _inside(mine: Own, rule: Kernels) -> dict[str, keras.layers.Layer]:
    """Returns the layers inside by name: the name that a rule gives, else their own."""
    inside = {name: inner for name, inner in rule.items() if isinstance(inner, keras.layers.Layer)}
    named = {id(inner) for inner in inside.values()}
    for inner in mine.layers:
        if id(inner) not in named:
            name, copies = inner.name, 1
            while name in inside:  # names are unique within a model, not within a layer
                copies += 1
                name = f"{inner.name}_{copies}"
            inside[name] = inner
    return inside


def _uncovered_weights(
    layer: keras.layers.Layer, known: type | None, mine: Own, kernels: Mapping[str, Kernel]
) -> list[Any]:
    """Returns the trainable weights that the layer holds itself and no rule covers.

    The rule of a base class also covers the bias, LoRA's pair, and vectors.
    """
    if known is None:
        return mine.weights
    covered = {id(kernel.variable) for kernel in kernels.values()}
    covered.add(id(getattr(layer, "bias", None)))
    return [
        weight
        for weight in mine.weights
        if id(weight) not in covered and len(weight.shape) > 1 and not is_lora(weight)
    ]


def _no_rule(layer: keras.layers.Layer, mine: Own, weights: list[Any]) -> Note:
    cls = type(layer).__name__
    named = ", ".join(f"{weight.name} {tuple(weight.shape)}" for weight in weights)
    held = (name for name, value in mine.attributes.items() if value is weights[0])
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


def random_layers(layers: Iterable[Any], paths: Mapping[int, str]) -> list[str]:
    """Returns the paths of those among layers that draw random numbers in training mode."""
    found = [layer for layer in layers if is_random(layer)]
    return list(dict.fromkeys(paths.get(id(layer)) or str(layer.name) for layer in found))


def not_built(survey: Iterable[Place]) -> list[Note]:
    """Returns a note for each layer that has no weights yet."""
    problems = {place.path: place.problem for place in survey if place.problem.kind == "not-built"}
    return [Note("not-built", f"not built: {path}: {why}") for path, why in problems.items()]
