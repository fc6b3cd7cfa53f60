"""Every error that keras_he raises, for `except`, and the one form that their messages have.

Every error that a caller can cause derives from `KerasHeError`, so that one `except` catches them
all, and from the built-in that a Keras user expects there (`ValueError`).
"""

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "InvalidArgument",
    "KerasHeError",
    "NotEager",
    "NotLoaded",
    "NotMeasurable",
    "NotPortable",
    "ReportProblem",
]
_LONGEST_NAME = 64  # longer strings are not typos, and difflib is quadratic


def __dir__() -> list[str]:
    """Returns the public errors: what tab completion shows."""
    return __all__


class _ShortRepr(reprlib.Repr):
    """The representation of any value in few words; Python does not print very long integers."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        """Returns a number, or how long it is."""
        return repr(x) if x.bit_length() <= 256 else f"<int of {x.bit_length()} bits>"


_repr = _ShortRepr()


class KerasHeError(Exception):
    """Base of all errors that keras_he raises on purpose."""


class InvalidArgument(KerasHeError, ValueError):
    """An argument, a shape or a config that keras_he refuses before anything is drawn."""


class NotPortable(KerasHeError, ValueError):
    """A model's config still names keras_he."""


class NotLoaded(KerasHeError, ValueError):
    """Variables that were made inside `skip_init` and got no value there."""


class NotMeasurable(KerasHeError, ValueError):
    """A layer's output is no numbers, or zero everywhere, or not linear in its kernel."""


class NotEager(KerasHeError, ValueError):
    """A layer was given a symbolic value, so that nothing could be measured there."""


class ReportProblem(KerasHeError, ValueError):
    """A kernel was not set, or a second moment lies outside of the band."""


def invalid(argument: str, accepted: str, received: object, hint: str = "") -> InvalidArgument:
    """Returns the error for an argument: what is accepted, what came, and what to write instead.

    Args:
        argument: Name of the argument.
        accepted: What it must be, to follow "must be".
        received: The value that came. Its representation is shortened.
        hint: A sentence that says what to write instead.
    """
    message = f"`{argument}` must be {accepted}. Received: {argument}={_repr.repr(received)}"
    return InvalidArgument(f"{message}\n{hint}" if hint else message)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns `Did you mean "…"?` for the nearest known name, or nothing where none is near."""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        return ""
    near = get_close_matches(name.lower(), list(known), n=1)
    return f'Did you mean "{near[0]}"?' if near else ""
