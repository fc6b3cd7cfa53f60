"""Counts how often control passes from one module, and one folder, of keras_he to another.

    KERAS_BACKEND=tensorflow python tools/count_changes.py

A reader who follows a model of two layers through `initialize` or `audit` turns that many pages. A
change is counted where a function is called that stands elsewhere than the one called before it.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np

import keras_he

PACKAGE = Path(keras_he.__file__).parent


def called(function: Callable[[], Any]) -> list[str]:
    """Returns the module of each function of keras_he that is called, in order."""
    modules: list[str] = []

    def record(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            modules.append(str(path.relative_to(PACKAGE).with_suffix("")))

    sys.setprofile(record)
    try:
        function()
    finally:
        sys.setprofile(None)
    return modules


def changes(places: list[str]) -> int:
    """Returns how often a place differs from the one before it."""
    return sum(one != other for one, other in pairwise(places))


def main() -> None:
    layers = [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(4)]
    model = keras.Sequential(layers)
    batch = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    jobs = {
        "initialize": lambda: keras_he.initialize(model, batch, seed=1),
        "audit": lambda: keras_he.audit(model, batch),
    }
    for name, job in jobs.items():
        modules = called(job)
        folders = [module.partition("/")[0] for module in modules]
        print(
            f"{name}: {changes(modules)} changes between {len(set(modules))} modules, "
            f"{changes(folders)} between {len(set(folders))} folders"
        )


if __name__ == "__main__":
    main()
