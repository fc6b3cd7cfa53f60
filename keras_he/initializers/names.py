"""The strings that layers accept: their grammar, and what each of them means.

No string is ever renamed or removed, and none is a name of Keras. This module does not import
Keras; `keras_he.initializers.registry` registers the strings there.
"""

import textwrap
from fnmatch import fnmatchcase
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from keras_he.errors import did_you_mean, invalid
from keras_he.sampling.laws import LAWS
from keras_he.theory import activations

_MODES = {"": {}, "_fan_out": {"mode": "fan_out"}, "_fan_avg": {"mode": "fan_avg"}}
_GEOMETRIES = {"": {}, "_depthwise": {"geometry": "depthwise"}}
# Strings without a grammar: ReLU and fan-in.
_PLAIN = {
    "kaiming_normal": LAWS["normal"].class_name,
    "kaiming_uniform": LAWS["uniform"].class_name,
    **{law.class_name: law.class_name for law in LAWS.values()},
}


class Meaning(NamedTuple):
    """What a string stands for: a class and its arguments."""

    class_name: str
    arguments: dict[str, Any]


@cache
def meanings() -> dict[str, Meaning]:
    """Returns every string with its meaning; the name of a class means the class itself."""
    table = {
        f"he_{name}{law.suffix}{mode}{geometry}": Meaning(
            law.class_name, {"activation": name, **_MODES[mode], **_GEOMETRIES[geometry]}
        )
        for name, law, mode, geometry in product(
            activations.NAMES, LAWS.values(), _MODES, _GEOMETRIES
        )
    }
    return table | {name: Meaning(class_name, {}) for name, class_name in _PLAIN.items()}


class _AllNames(tuple[str, ...]):
    """All strings, as a tuple that is displayed as their grammar."""

    __slots__ = ()

    def __repr__(self) -> str:
        laws = ", ".join(law.suffix for law in LAWS.values() if law.suffix)
        rows = {
            "<activation>": ", ".join(activations.NAMES),
            "<law>": f"{laws}; left out: the normal law",
            "<mode>": f"{', '.join(filter(None, _MODES))}; left out: fan_in",
            "_depthwise": "for the kernel of a depthwise convolution",
        }
        wrap = textwrap.TextWrapper(88, subsequent_indent=" " * 15)
        table = [line for label, text in rows.items() for line in wrap.wrap(f"  {label:<13}{text}")]
        return "\n".join(
            [
                "he_<activation>[<law>][<mode>][_depthwise]",
                "",
                *table,
                "",
                *textwrap.wrap(f"ReLU and fan_in: {', '.join(_PLAIN)}", 88),
                "",
                f"{len(self)} strings, such as he_gelu, he_prelu_uniform and "
                "he_relu_truncated_fan_out_depthwise.",
                'keras_he.names("he_prelu*") lists those that match a shell pattern, and so does',
                "keras-he names 'he_prelu*' on the command line.",
            ]
        )


def names(pattern: str | None = None) -> tuple[str, ...]:
    """Returns the strings that a layer accepts as an initializer once keras_he is imported.

    The grammar is `he_<activation>`, then a law such as `_uniform`, then `_fan_out` or `_fan_avg`,
    then `_depthwise`; each part but the first may be left out.
    `kaiming_normal`, `kaiming_uniform` and the class names are for ReLU and fan-in, as in torch.

    A string does not know its layer. A grouped or transposed convolution needs the class and its
    arguments. `he_prelu` and `he_leaky_relu` assume the slopes 0.25 and 0.2, whereas Keras' layers
    `PReLU()` and `LeakyReLU()` have 0 and 0.3.

    Args:
        pattern: A shell pattern, such as `"he_prelu*"`: only strings that match it are returned.

    Returns:
        A sorted tuple. Without a pattern it holds all strings, and prints as their grammar.

    Raises:
        InvalidArgument: If the pattern is not a string, or no string matches it.

    Example:
        >>> import keras_he
        >>> "he_prelu_uniform_fan_out" in keras_he.names()
        True
        >>> keras_he.names("he_tanh_fan_out*")
        ('he_tanh_fan_out', 'he_tanh_fan_out_depthwise')
    """
    every = _AllNames(sorted(meanings()))
    if pattern is None:
        return every
    if not isinstance(pattern, str):
        raise invalid("pattern", 'a shell pattern, such as "he_prelu*"', pattern)
    found = tuple(name for name in every if fnmatchcase(name, pattern))
    if not found:
        accepted = "a shell pattern that matches at least one string"
        raise invalid("pattern", accepted, pattern, did_you_mean(pattern, every))
    return found
