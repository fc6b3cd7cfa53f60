"""Every error that keras_he raises, and the form of their messages.

Each derives from `KerasHeError`, so one `except` catches all of them, and from the built-in error
that a Keras user expects (`ValueError`).
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
    """A short representation of any value; Python refuses to print very long integers."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        """Returns the number, or its length."""
        return repr(x) if x.bit_length() <= 256 else f"<int of {x.bit_length()} bits>"


_repr = _ShortRepr()


class KerasHeError(Exception):
    """The base class of all errors that keras_he raises."""


class InvalidArgument(KerasHeError, ValueError):
    """An argument, a shape or a config is not valid; raised before anything is drawn."""


class NotPortable(KerasHeError, ValueError):
    """The config of a model still names keras_he."""


class NotLoaded(KerasHeError, ValueError):
    """Variables were created inside `skip_init`, and no value was loaded into them."""


class NotMeasurable(KerasHeError, ValueError):
    """A layer's output is not finite, is zero everywhere, or is not linear in its kernel."""


class NotEager(KerasHeError, ValueError):
    """A layer got a symbolic value, so its output could not be measured."""


class ReportProblem(KerasHeError, ValueError):
    """A report has findings, a kernel that was not set, or a second moment outside the band."""


def invalid(argument: str, accepted: str, received: object, hint: str = "") -> InvalidArgument:
    """Returns the error for an argument: accepted and received values, and what to write instead.

    Args:
        argument: Name of the argument.
        accepted: The accepted values, to follow "must be".
        received: The received value. Its representation is shortened.
        hint: A sentence that says what to write instead.
    """
    message = f"`{argument}` must be {accepted}. Received: {argument}={_repr.repr(received)}"
    return InvalidArgument(f"{message}\n{hint}" if hint else message)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns `Did you mean "…"?` with the nearest known name, or an empty text if none is near."""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        return ""
    near = get_close_matches(name.lower(), list(known), n=1)
    return f'Did you mean "{near[0]}"?' if near else ""
