"""The strings: `he_<activation>[_<law>][_<mode>][_depthwise]`, each an alias of a class.

The value of a string in Keras' table of custom objects is an `Alias`, whose `from_config` returns
the class with its arguments filled in; so what is saved is always the class with plain arguments,
never the string. Names are frozen for ever, and none is a name of Keras'.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import keras

from keras_he import activations
from keras_he.errors import invalid
from keras_he.initializers import (
    CLASSES,
    Kaiming,
    KaimingNormal,
    KaimingOrthogonal,
    KaimingTruncatedNormal,
    KaimingUniform,
)

_LAWS = {
    "": KaimingNormal,
    "_uniform": KaimingUniform,
    "_truncated": KaimingTruncatedNormal,
    "_orthogonal": KaimingOrthogonal,
}
_MODES = {"": {}, "_fan_out": {"mode": "fan_out"}, "_fan_avg": {"mode": "fan_avg"}}
_GEOMETRIES = {"": {}, "_depthwise": {"geometry": "depthwise"}}


class Alias(NamedTuple):
    """A string's meaning; Keras calls `from_config` on it as if it were a class."""

    initializer: type[Kaiming]
    arguments: dict[str, Any]

    def from_config(self, config: Mapping[str, Any]) -> Kaiming:
        """Returns the initializer; `config` may add what the string leaves open, such as a seed."""
        for argument in config:
            if argument in {*self.arguments, "gain", "negative_slope"}:
                raise invalid(
                    argument,
                    "left out beside a string, which says it already",
                    config[argument],
                    f"Write keras_he.{self.initializer.__name__}(…) with all of its arguments.",
                )
        return self.initializer.from_config({**self.arguments, **config})

    def __call__(self, shape: Sequence[int], dtype: Any = None, layout: Any = None) -> Any:
        """Returns a kernel, for `keras.initializers.deserialize("he_prelu")` returns the alias."""
        return self.from_config({})(shape, dtype, layout)


def aliases() -> dict[str, Alias | type[Kaiming]]:
    """Returns every string with its meaning: arguments of a class, or a class with its defaults."""
    table: dict[str, Alias | type[Kaiming]] = {
        f"he_{name}{law}{mode}{geometry}": Alias(
            _LAWS[law], {"activation": name, **_MODES[mode], **_GEOMETRIES[geometry]}
        )
        for name, law, mode, geometry in product(activations.NAMES, _LAWS, _MODES, _GEOMETRIES)
    }
    table |= {"kaiming_normal": KaimingNormal, "kaiming_uniform": KaimingUniform}
    return table | {initializer.__name__: initializer for initializer in CLASSES}


def names() -> tuple[str, ...]:
    """Returns every string that Keras accepts for an initializer once keras_he is imported.

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
    return tuple(sorted(aliases()))


def register() -> None:
    """Puts the strings into Keras' table of custom objects."""
    keras.saving.get_custom_objects().update(aliases())
