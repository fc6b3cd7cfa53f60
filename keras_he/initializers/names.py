"""The grammar of the strings: `he_<activation>[_<law>][_<mode>][_depthwise]`, and their meanings.

Names are frozen for ever, and none is a name of Keras'. Nothing of Keras is needed to know them;
`keras_he.initializers.registry` makes them known to it.
"""

from functools import cache
from itertools import product
from typing import Any, NamedTuple

from keras_he.theory import activations

# The class of each law.
CLASS_NAMES = {
    "normal": "KaimingNormal",
    "uniform": "KaimingUniform",
    "truncated_normal": "KaimingTruncatedNormal",
    "orthogonal": "KaimingOrthogonal",
}
_LAWS = {
    "": "normal",
    "_uniform": "uniform",
    "_truncated": "truncated_normal",
    "_orthogonal": "orthogonal",
}
_MODES = {"": {}, "_fan_out": {"mode": "fan_out"}, "_fan_avg": {"mode": "fan_avg"}}
_GEOMETRIES = {"": {}, "_depthwise": {"geometry": "depthwise"}}


class Meaning(NamedTuple):
    """What a string stands for: a class, and the arguments that the string gives to it."""

    class_name: str
    arguments: dict[str, Any]


@cache
def meanings() -> dict[str, Meaning]:
    """Returns every string with its meaning; the name of a class means the class itself."""
    table = {
        f"he_{name}{law}{mode}{geometry}": Meaning(
            CLASS_NAMES[_LAWS[law]], {"activation": name, **_MODES[mode], **_GEOMETRIES[geometry]}
        )
        for name, law, mode, geometry in product(activations.NAMES, _LAWS, _MODES, _GEOMETRIES)
    }
    table["kaiming_normal"] = Meaning(CLASS_NAMES["normal"], {})
    table["kaiming_uniform"] = Meaning(CLASS_NAMES["uniform"], {})
    return table | {name: Meaning(name, {}) for name in CLASS_NAMES.values()}


def names() -> tuple[str, ...]:
    """Returns every string that a layer accepts for an initializer once keras_he is imported.

    The grammar is `he_<activation>`, then `_uniform`, `_truncated` or `_orthogonal`, then
    `_fan_out` or `_fan_avg`, then `_depthwise`; each part but the first may be left out.
    `kaiming_normal`, `kaiming_uniform` and the class names are for ReLU and fan-in, as in torch.

    A string cannot know its layer: a grouped or transposed convolution needs the class and its
    arguments, and `he_prelu` and `he_leaky_relu` assume the slopes 0.25 and 0.2, where Keras'
    layers `PReLU()` and `LeakyReLU()` have 0 and 0.3.

    Example:
        >>> import keras_he
        >>> "he_prelu_uniform_fan_out" in keras_he.names()
        True
    """
    return tuple(sorted(meanings()))
