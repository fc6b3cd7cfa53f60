"""The public names and their signatures are those of `public_surface.txt`."""

import difflib
import inspect
import os
import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest

import keras_he
from keras_he import errors

SURFACE = Path(__file__).parent / "public_surface.txt"
CHANGED = """The public names or signatures changed. If that is meant, add a line to CHANGELOG.md
that says what a user notices, and write the file again:
KERAS_HE_WRITE_SURFACE=1 python -m pytest {test}
"""


class Text(str):
    """A text that a signature shows without quotes."""

    __slots__ = ()

    def __repr__(self):
        return str(self)


def written(annotation):
    """Returns an annotation as text that is the same on every version of Python."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in (Union, types.UnionType):
        return " | ".join(map(written, arguments))
    if isinstance(annotation, list):  # the arguments of a callable
        return f"[{', '.join(map(written, annotation))}]"
    if origin is not None:
        return f"{written(origin)}[{', '.join(map(written, arguments))}]"
    if annotation is Any or annotation is None or annotation is type(None):
        return "Any" if annotation is Any else "None"
    if annotation is ...:
        return "..."
    return getattr(annotation, "__name__", None) or str(annotation)


def signature(function):
    """Returns a signature, its annotations as text."""
    found = inspect.signature(function, eval_str=True)
    parameters = [
        one
        if one.annotation is one.empty
        else one.replace(annotation=Text(written(one.annotation)))
        for one in found.parameters.values()
    ]
    returns = found.return_annotation
    if returns is not found.empty:
        returns = Text(written(returns))
    return str(found.replace(parameters=parameters, return_annotation=returns))


def members(cls):
    """Returns the lines of a class: the public methods and properties that it does not inherit."""
    ours = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == "keras_he"]
    found = {name: one for base in reversed(ours) for name, one in vars(base).items()}
    for name, one in sorted(found.items()):
        if name.startswith("_") and name != "__call__":
            continue
        if isinstance(one, property):
            yield f"    {name} -> {signature(one.fget).rpartition(' -> ')[2]}"
        elif isinstance(one, (classmethod, staticmethod)):
            yield f"    {type(one).__name__} {name}{signature(one.__func__)}"
        elif inspect.isfunction(one):
            yield f"    {name}{signature(one)}"


def lines():
    """Returns the lines of the public surface."""
    for name in keras_he.__all__:
        one = getattr(keras_he, name)
        if isinstance(one, type) and not issubclass(one, Exception):
            yield f"class {name}{signature(one).removesuffix(' -> None')}"
            yield from members(one)
        elif inspect.isfunction(one):
            yield f"{name}{signature(one)}"
    for name in errors.__all__:
        bases = ", ".join(base.__name__ for base in getattr(errors, name).__bases__)
        yield f"class errors.{name}({bases})"


def test_the_public_names_have_the_signatures_of_the_file():
    actual = [f"{line}\n" for line in lines()]
    if os.environ.get("KERAS_HE_WRITE_SURFACE"):
        SURFACE.write_text("".join(actual), encoding="utf-8")
    expected = SURFACE.read_text(encoding="utf-8").splitlines(keepends=True)
    changes = "".join(difflib.unified_diff(expected, actual, "public_surface.txt", "keras_he"))
    if changes:
        test = f"tests/package/{Path(__file__).name}"
        pytest.fail(f"{CHANGED.format(test=test)}\n{changes}", pytrace=False)


def test_every_public_name_is_in_the_file():
    text = SURFACE.read_text(encoding="utf-8")
    for name in {*keras_he.__all__} - {"KerasHeError"}:
        assert f"{name}(" in text
    for name in errors.__all__:
        assert f"class errors.{name}(" in text


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (None, "None"),
        (Any, "Any"),
        (float | None, "float | None"),
        (Literal["a", "b"] | None, "Literal['a', 'b'] | None"),
        (dict[str, tuple[int, ...]], "dict[str, tuple[int, ...]]"),
        ("Report", "Report"),
    ],
    ids=str,
)
def test_an_annotation_is_the_same_text_on_every_python(annotation, text):
    assert written(annotation) == text


def test_a_changed_signature_is_seen_with_what_to_do(monkeypatch):
    def gain(activation, other=None):
        """A signature that differs."""

    monkeypatch.delenv("KERAS_HE_WRITE_SURFACE", raising=False)
    monkeypatch.setattr(keras_he, "gain", gain)
    with pytest.raises(pytest.fail.Exception, match=r"add a line to CHANGELOG.md") as failure:
        test_the_public_names_have_the_signatures_of_the_file()
    assert "+gain(activation, other=None)\n" in str(failure.value)


def test_every_public_name_is_in_the_user_code_that_mypy_checks():
    code = (Path(__file__).parent / "user_code.py").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", code))
    assert {*keras_he.__all__, *errors.__all__} <= words
