"""Path patterns and predicates that select variables, for `only` and `skip`."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from keras_he.errors import did_you_mean, invalid


def selected(paths: Sequence[str], only: Any, skip: Any) -> set[str]:
    """Returns the paths that `only` selects and `skip` does not.

    Each is a pattern, a sequence of patterns, or a function from a path to a bool; without `only`
    all paths are selected. A pattern is a shell pattern for a variable, or for a layer around it.
    """
    chosen = set(paths) if only is None else _chosen("only", only, paths)
    return chosen if skip is None else chosen - _chosen("skip", skip, paths)


def _chosen(argument: str, choice: Any, paths: Sequence[str]) -> set[str]:
    if callable(choice):
        predicate: Callable[[str], Any] = choice
        return {path for path in paths if predicate(path)}
    patterns = [choice] if isinstance(choice, str) else choice
    if not isinstance(patterns, (list, tuple, set, frozenset)) or not all(
        isinstance(pattern, str) for pattern in patterns
    ):
        raise invalid(argument, "a path pattern, several of them, or a function of a path", choice)
    chosen: set[str] = set()
    for pattern in patterns:
        fitting = {
            path
            for path in paths
            if fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")
        }
        if not fitting:
            hint = did_you_mean(pattern, paths)
            raise invalid(argument, "patterns that fit paths of the model", pattern, hint)
        chosen |= fitting
    return chosen
