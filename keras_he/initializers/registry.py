"""The strings in Keras' tables: each string has a class that Keras can call, hash and pickle.

Keras, and packages that build on it, keep classes in the table of custom objects. So the value of a
string is a class: a subclass of the class of its law, whose construction returns an initializer of
that law with the arguments of the string. Files hold the class of the law with plain arguments,
never the string.

`keras.initializers.get` looks strings up in the table of custom objects until Keras 3.15, and in a
table of its own from the nightly builds of October 2026 on. `register` tries which one works.
`keras_he.get` needs neither.
"""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import keras

from keras_he.backend.foreign import hint as foreign_hint
from keras_he.backend.foreign import is_keras_2
from keras_he.backend.keras_private import built_in_initializers
from keras_he.errors import did_you_mean, invalid
from keras_he.initializers.kaiming import CLASSES, Kaiming
from keras_he.initializers.names import meanings, names

_CLASSES: dict[str, type[Kaiming]] = {cls.__name__: cls for cls in CLASSES.values()}
_PACKAGE = "keras_he"


@cache
def aliases() -> dict[str, type[Kaiming]]:
    """Returns the class for every string."""
    return {
        name: _alias(name, _CLASSES[class_name], arguments) if arguments else _CLASSES[class_name]
        for name, (class_name, arguments) in meanings().items()
    }


def _alias(name: str, law: type[Kaiming], arguments: Mapping[str, Any]) -> type[Kaiming]:
    """Returns the class of a string, whose construction returns an initializer of class `law`."""

    def construct(cls: type[Kaiming], **others: Any) -> Kaiming:
        return law(**_added(law, arguments, others))

    def from_config(cls: type[Kaiming], config: Any) -> Kaiming:
        """Returns the initializer; `config` may add other arguments, such as a seed."""
        if not isinstance(config, Mapping):
            return law.from_config(config)  # which refuses it
        return law.from_config(_added(law, arguments, config))

    construct.__qualname__ = name  # the name in errors about arguments
    written = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    namespace = {
        "__module__": __name__,  # where pickle finds it
        "__doc__": f'The string "{name}": `keras_he.{law.__name__}({written})`.',
        "__new__": construct,
        "from_config": classmethod(from_config),
    }
    return type(name, (law,), namespace)


def __getattr__(name: str) -> Any:
    """Returns the class of a string: pickle looks it up by its name."""
    if name in meanings():
        return aliases()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _added(
    law: type[Kaiming], arguments: Mapping[str, Any], others: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the arguments of a string and others, which must not contradict them."""
    added = dict(arguments)
    for argument, value in others.items():
        if argument not in {*arguments, "gain", "negative_slope"}:
            added[argument] = value
        elif getattr(law(**arguments), argument) != value:  # such as a config may repeat
            raise invalid(
                argument,
                "left out beside a string, which says it already",
                value,
                f"Write keras_he.{law.__name__}(…) with all of its arguments.",
            )
    return added


def get(identifier: Any) -> Kaiming:
    """Returns the initializer that a string, a class name or a config stands for.

    `keras.initializers.get` does the same on versions of Keras that look up strings of packages.
    This function works on every version, and does not depend on what is registered with Keras.

    Args:
        identifier: One of `keras_he.names()`; a class name such as `"KaimingNormal"` or
            `"keras_he>KaimingNormal"`; a config, as `keras.initializers.serialize` writes it, or
            `{"class_name": "he_prelu", "config": {"seed": 1}}`; one of keras_he's classes; or an
            initializer of keras_he, which is returned as it is.

    Raises:
        InvalidArgument: If it is none of these. Initializers of Keras are for
            `keras.initializers.get`.

    Example:
        >>> import keras_he
        >>> keras_he.get("he_prelu")
        KaimingNormal(activation='prelu', negative_slope=0.25)
        >>> keras_he.get({"class_name": "he_gelu_uniform", "config": {"seed": 7}})
        KaimingUniform(activation='gelu', seed=7)
    """
    if isinstance(identifier, Kaiming):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Kaiming) and identifier != Kaiming:
        return identifier()
    if isinstance(identifier, str):
        return _class_of(identifier)()
    if isinstance(identifier, Mapping):
        name = identifier.get("registered_name") or identifier.get("class_name")
        if name is None or identifier.get("module") not in (None, "builtins", _PACKAGE):
            raise _unknown(identifier)
        return _class_of(name).from_config(identifier.get("config", {}))
    raise _unknown(identifier)


def _class_of(name: Any) -> type[Kaiming]:
    if not isinstance(name, str):
        raise _unknown(name)
    bare = name.removeprefix(f"{_PACKAGE}>")
    known = aliases() if bare == name else _CLASSES  # only classes have the package's prefix
    if bare not in known:
        raise _unknown(name)
    return aliases()[bare]


def _unknown(identifier: Any) -> Exception:
    own = getattr(keras.initializers, identifier, None) if isinstance(identifier, str) else None
    hint = _same_parts(identifier) or did_you_mean(identifier, names())
    if isinstance(own, type) and own is not keras.initializers.Initializer:
        hint = f'It is Keras\' own: `keras.initializers.get("{identifier}")`.'
    elif is_keras_2(identifier):
        hint = foreign_hint(identifier)
    elif isinstance(identifier, keras.initializers.Initializer):
        hint = "It is not of keras_he: use it as it is."
    return invalid(
        "identifier",
        "a string of `keras_he.names()`, a class name, a config or an initializer of keras_he",
        identifier,
        hint or "A string is `he_<activation>`; `keras_he.names()` lists all of them.",
    )


def _same_parts(identifier: Any) -> str:
    """Returns "Did you mean …?" for the string that has the same parts in the right order."""
    parts = sorted(identifier.split("_")) if isinstance(identifier, str) else None
    same = [name for name in names() if sorted(name.split("_")) == parts]
    return f'Did you mean "{same[0]}"?' if same else ""


def register() -> None:
    """Makes the strings and classes of keras_he known to Keras, as `import keras_he` does.

    Call it where something has emptied Keras' table of custom objects
    (`keras.saving.get_custom_objects().clear()`): afterwards strings work and files load again. It
    may be called any number of times. A name that somebody else has registered is left to them,
    with a warning.

    Example:
        >>> import keras, keras_he
        >>> keras_he.register()
        >>> keras.layers.Dense(4, kernel_initializer="he_prelu").kernel_initializer
        KaimingNormal(activation='prelu', negative_slope=0.25)
    """
    ours: dict[str, type[Kaiming]] = dict(aliases())
    ours |= {f"{_PACKAGE}>{name}": cls for name, cls in _CLASSES.items()}
    taken = _put(keras.saving.get_custom_objects(), ours)
    if not _resolves():
        table = built_in_initializers()
        if table is not None:
            taken |= _put(table, aliases())
    if taken:
        listed = ", ".join(f'"{name}"' for name in sorted(taken)[:5])
        warnings.warn(
            f"Somebody else has registered {len(taken)} of keras_he's names with Keras, which "
            f'stay theirs: {listed}. `keras_he.get("{min(taken)}")` returns keras_he\'s.',
            stacklevel=2,
        )
    if not _resolves():
        warnings.warn(
            f"Keras {keras.__version__} does not accept strings of keras_he as arguments of "
            'layers. Write `kernel_initializer=keras_he.get("he_prelu")` in place of '
            '`kernel_initializer="he_prelu"`.',
            stacklevel=2,
        )


def _put(table: dict[str, Any], ours: Mapping[str, type[Kaiming]]) -> set[str]:
    """Puts our entries into a table; returns the names that other code has registered."""
    taken = set()
    for name, cls in ours.items():
        held = table.get(name, cls)
        # The same class of an earlier import is ours too: notebooks reload packages.
        if getattr(held, "__module__", "").partition(".")[0] == _PACKAGE:
            table[name] = cls
        else:
            taken.add(name)
    return taken


def _resolves() -> bool:
    """Returns whether layers of this Keras accept at least one of our strings.

    Other code may have registered some of the names.
    """
    for name in aliases():
        with suppress(TypeError, ValueError):
            if isinstance(keras.initializers.get(name), Kaiming):
                return True
    return False
