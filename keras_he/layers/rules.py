"""The kernels of a Keras layer, and how it uses each: one table from layer types to rules.

A rule says it of the weights that a layer holds itself; the layers inside a layer are found and
asked in turn. A layer that holds trainable weights without a rule is an error, never a guess: its
author tells with `register_kernels`. Rules are inherited, but not for the weights that a subclass
adds.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import keras

from keras_he.backend.foreign import hint, is_keras_2
from keras_he.backend.keras_private import own_trainable_weights, own_variables, sublayers
from keras_he.errors import InvalidArgument, invalid
from keras_he.notes import NO_NOTE, Note
from keras_he.theory.kernel_geometry import DEFAULTS, Fans, Geometry, geometry_fans, make_geometry

# From an attribute that holds a kernel to the arguments of `fans` for it, or from a name to a layer
# inside, which stands under that name.
Kernels = Mapping[str, "Mapping[str, Any] | keras.layers.Layer"]
Rule = Callable[[Any], Kernels]


class Kernel(NamedTuple):
    """A kernel of a layer: the variable, and how it is used."""

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


def register_kernels(layer_class: type, function: Rule) -> None:
    """Says which weights of your own layer are kernels, and how the layer uses them.

    Args:
        layer_class: The layer's class. Its subclasses inherit the rule.
        function: Takes a built layer and returns a dict from the attribute that holds a kernel to
            the arguments of `keras_he.fans` for it, `{}` for a dense kernel or a plain convolution.
            Trainable weights that are not in it are taken for biases, scales and the like. Layers
            inside the layer speak for themselves.

    Raises:
        InvalidArgument: If `layer_class` is not a layer class, or `function` cannot be called.

    Example:
        >>> import keras, keras_he
        >>> class Upsample(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.taps = self.add_weight(shape=(4, 4, 8, shape[-1]), name="taps")
        ...     def call(self, x):
        ...         return keras.ops.conv_transpose(x, self.taps, strides=2, padding="same")
        >>> rule = lambda layer: {"taps": {"geometry": "transpose", "strides": 2}}
        >>> keras_he.register_kernels(Upsample, rule)
        >>> layer = Upsample()
        >>> layer.build((None, 8, 8, 16))
        >>> keras_he.layer_fans(layer)
        {'taps': Fans(fan_in=64.0, fan_out=128.0)}
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        accepted = "a subclass of `keras.layers.Layer`"
        wrong = hint(layer_class) if is_keras_2(layer_class) else ""
        raise invalid("layer_class", accepted, layer_class, wrong)
    if not callable(function):
        raise invalid("function", "a function from a layer to a dict of its kernels", function)
    RULES[layer_class] = function


class Place(NamedTuple):
    """A layer where it stands in another: what it holds itself, or why that is not known.

    `path` is of names; `key` is the same with automatic names (`dense_12`, which count all layers
    of a process) replaced by what the layer is, so that it tells the place and nothing else.
    `outer` are the layers that it is inside of; where a layer is `closed`, nothing is known of what
    is inside it.
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
    known = next((cls for cls in type(layer).__mro__ if cls in RULES), None)
    rule = RULES[known] if known else None
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
        return rule is not _no_kernels
    # Layers of Keras without a rule have none; others make theirs in `build`, or hold layers.
    own_build = type(layer).build is not keras.layers.Layer.build
    return own_build and not type(layer).__module__.startswith("keras.")


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
        if id(weight) not in spoken_for
        and len(weight.shape) > 1
        and not weight.name.startswith("lora_")
    ]


def _no_rule(layer: keras.layers.Layer, weights: list[Any]) -> Note:
    cls = type(layer).__name__
    named = ", ".join(f"{weight.name} {tuple(weight.shape)}" for weight in weights)
    held = (name for name, value in vars(layer).items() if value is weights[0])
    return Note(
        "no-rule",
        f"no rule says how {cls} uses {named}. Say it with `keras_he.register_kernels({cls}, "
        f'lambda layer: {{"{next(held, weights[0].name)}": {{…}}}})`, with the arguments of '
        "`keras_he.fans`.",
    )


def has_fixed_threshold(layer: Any) -> bool:
    """Returns whether a layer rounds its kernel to three values by a threshold of its own.

    What it returns is then of one size, whatever the size of the kernel.
    """
    ternary = getattr(keras.layers, "TernaryDense", None)
    return ternary is not None and isinstance(layer, ternary) and layer.threshold is not None


def _no_kernels(layer: Any) -> Kernels:
    return {}


def _einsum(layer: keras.layers.EinsumDense) -> Kernels:
    inputs, rest = layer.equation.replace(" ", "").split(",")
    kernel, outputs = rest.split("->")
    alone = set(inputs) - set(kernel) - set(outputs) - {"."}
    if alone:
        raise InvalidArgument(
            f"the equation {layer.equation!r} sums over {', '.join(sorted(alone))}, which is no "
            "axis of the kernel, so its length, a factor of fan_in, is not known from the layer."
        )
    return {
        "kernel": {
            "input_axes": [i for i, axis in enumerate(kernel) if axis not in outputs],
            "output_axes": [i for i, axis in enumerate(kernel) if axis not in inputs],
        }
    }


def _convolution(layer: Any) -> Kernels:
    return {"kernel": {"strides": layer.strides, "groups": layer.groups}}


def _depthwise(layer: Any) -> Kernels:
    return {"kernel": {"geometry": "depthwise", "strides": layer.strides}}


def _separable(layer: Any) -> Kernels:
    depthwise = {"geometry": "depthwise", "strides": layer.strides}
    return {"depthwise_kernel": depthwise, "pointwise_kernel": {}}


def _transposed(layer: Any) -> Kernels:
    return {"kernel": {"geometry": "transpose", "strides": layer.strides}}


_LOOKUP = {"input_axes": (), "output_axes": (1,)}  # an output unit reads one row


def _reversible(layer: Any) -> Kernels:
    # Tied, the one matrix is a lookup first; its second use, as a dense kernel, is not counted.
    lookup: Kernels = {"embeddings": _LOOKUP}
    if layer.tie_weights:
        return lookup
    if layer.quantization_mode == "int4":
        raise InvalidArgument("an int4 kernel is packed, so its shape does not tell its fans.")
    return {**lookup, "reverse_embeddings": {}}


def _recurrent(gates: int) -> Rule:
    return lambda cell: {"kernel": {"gates": gates}, "recurrent_kernel": {"gates": gates}}


def _convolutional_recurrent(layer: Any) -> Kernels:
    # The class of the cell is not public: it is known from the layer that holds it.
    RULES.setdefault(type(layer.cell), _convolutional_cell)
    return {"": layer.cell}


def _convolutional_cell(cell: Any) -> Kernels:
    return {"kernel": {"strides": cell.strides, "gates": 4}, "recurrent_kernel": {"gates": 4}}


def _additive_attention(layer: Any) -> Kernels:
    # A score is the sum of `scale * tanh(query + key)` over the channels.
    return {"scale": {"input_axes": (0,), "output_axes": ()}} if layer.use_scale else {}


def _bidirectional(layer: keras.layers.Bidirectional) -> Kernels:
    return {"forward_layer": layer.forward_layer, "backward_layer": layer.backward_layer}


_BUILT_IN: dict[str, Rule] = {
    "Dense": lambda layer: {"kernel": {}},
    "TernaryDense": lambda layer: {"kernel": {}},  # Keras after 3.15
    "EinsumDense": _einsum,
    "Embedding": lambda layer: {"embeddings": _LOOKUP},
    "ReversibleEmbedding": _reversible,
    "SimpleRNNCell": _recurrent(1),
    "GRUCell": _recurrent(3),
    "LSTMCell": _recurrent(4),
    "RNN": lambda layer: {"": layer.cell},
    "StackedRNNCells": lambda layer: {str(i): cell for i, cell in enumerate(layer.cells)},
    "Bidirectional": _bidirectional,
    "Wrapper": lambda layer: {"layer": layer.layer},
    **dict.fromkeys(["Conv1D", "Conv2D", "Conv3D"], _convolution),
    **dict.fromkeys(["Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"], _transposed),
    **dict.fromkeys(["DepthwiseConv1D", "DepthwiseConv2D"], _depthwise),
    **dict.fromkeys(["SeparableConv1D", "SeparableConv2D"], _separable),
    **dict.fromkeys(["ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"], _convolutional_recurrent),
    "AdditiveAttention": _additive_attention,
    "Attention": _no_kernels,  # its `scale` is a factor of the scores, one number
    "BatchNormalization": _no_kernels,
    "GroupNormalization": _no_kernels,
    "LayerNormalization": _no_kernels,
    "PReLU": _no_kernels,
    "RMSNormalization": _no_kernels,
}

# A layer that this Keras does not have yet needs no rule.
RULES: dict[type, Rule] = {
    getattr(keras.layers, name): rule
    for name, rule in _BUILT_IN.items()
    if hasattr(keras.layers, name)
}
