"""Path patterns, layers and predicates that select variables, for `only` and `skip`."""

from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import keras

from keras_he.errors import did_you_mean, invalid

_ACCEPTED = "a path pattern, a layer, several of them, or a function of a path"


def selected(variables: Mapping[str, Any], only: Any, skip: Any) -> set[str]:
    """Returns the paths that `only` selects and `skip` does not.

    Each is a pattern, a layer, several of them, or a function from a path to a bool; without `only`
    all paths are selected. A pattern is a shell pattern for a variable, or for a layer around it. A
    layer selects the variables inside it. `variables` is by path.
    """
    chosen = set(variables) if only is None else _chosen("only", only, variables)
    return chosen if skip is None else chosen - _chosen("skip", skip, variables)


def names(choice: Any, path: str) -> bool:
    """Returns whether a choice names a variable by its own path, not by a pattern or a layer."""
    several = isinstance(choice, Collection) and not isinstance(choice, str)
    return path == choice or (several and path in choice)


def _chosen(argument: str, choice: Any, variables: Mapping[str, Any]) -> set[str]:
    is_layer = isinstance(choice, keras.layers.Layer)
    if callable(choice) and not is_layer and not isinstance(choice, type):
        return _by_function(argument, choice, variables)
    several = [choice] if isinstance(choice, str) or is_layer else choice
    if not isinstance(several, (list, tuple, set, frozenset)) or not all(
        isinstance(one, (str, keras.layers.Layer)) for one in several
    ):
        raise invalid(argument, _ACCEPTED, choice)
    chosen: set[str] = set()
    for one in several:
        by_name = isinstance(one, str)
        chosen |= (_by_pattern if by_name else _by_layer)(argument, one, variables)
    return chosen


def _by_function(argument: str, predicate: Callable[[str], Any], paths: Iterable[str]) -> set[str]:
    chosen = set()
    for path in paths:
        try:
            if predicate(path):
                chosen.add(path)
        except Exception as error:  # the user's own function, or something else that is callable
            hint = f"For {path!r} it raised {type(error).__name__}: {str(error)[:200]}"
            raise invalid(argument, _ACCEPTED, predicate, hint) from error
    return chosen


def _by_pattern(argument: str, pattern: str, paths: Iterable[str]) -> set[str]:
    fitting = {
        path for path in paths if fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")
    }
    if not fitting:
        hint = did_you_mean(pattern, paths)
        raise invalid(argument, "patterns that fit paths of the model", pattern, hint)
    return fitting


def _by_layer(argument: str, layer: Any, variables: Mapping[str, Any]) -> set[str]:
    inside = {id(one) for one in layer.variables}
    fitting = {path for path, one in variables.items() if id(one) in inside}
    if not fitting:
        raise invalid(argument, "layers of the model that have variables", layer.name)
    return fitting
