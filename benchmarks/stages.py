"""Measures the stages of a draw, on one thread, in NumPy.

A part of `benchmarks/run.py`: nanoseconds a value for large draws, microseconds a call for others.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from timing import interleaved, repeated, row

from keras_he.sampling import laws
from keras_he.sampling import stream as sampling
from keras_he.sampling.laws import LAWS
from keras_he.sampling.stream import in_blocks

CHUNK = sampling._CHUNK
SMALL = (64, 64)


def per_value() -> dict[str, Callable[[], object]]:
    """Returns the stages of a draw, each for one chunk."""
    generator = np.random.PCG64DXSM(1)
    words = generator.random_raw(CHUNK // 2).view(np.int32)
    values, bits = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.uint16)
    scratch = np.empty((3, CHUNK), np.float32)
    normal, truncated, uniform = laws.normal(1.0), laws.truncated_normal(1.0), laws.uniform(1.0)
    outer = words[normal.centre(words, values, scratch)]
    return {
        "random words": lambda: generator.random_raw(CHUNK // 2),
        "normal law, its centre": lambda: normal.centre(words, values, scratch),
        "normal law, its tail": lambda: normal.tail(outer),
        "truncated normal law": lambda: truncated.centre(words, values, scratch),
        "uniform law": lambda: uniform.centre(words, values, scratch),
        "rounding to bfloat16": lambda: sampling.store(values, bits, "bfloat16"),
        "first touch of memory": lambda: np.empty(128 * CHUNK, np.float32).fill(1.0),
    }


def per_call() -> dict[str, Callable[[], object]]:
    """Returns what a draw does once, and the calls of one chunk without arithmetic."""
    few = np.full(16, 2**31 - 1, np.int32)
    out, scratch = np.empty(16, np.float32), np.empty((3, 16), np.float32)
    fills = {law.name: law.fill(1.0) for law in LAWS.values() if law.fill}
    return {
        "key and generator": lambda: sampling.word_reader(1, SMALL),
        "aligned memory": lambda: sampling.aligned_empty(SMALL, np.float32),
        "two threads that do nothing": lambda: in_blocks(lambda first: None, range(4), 2),
        "calls of the normal law's centre": lambda: fills["normal"].centre(few, out, scratch),
        "calls of its tail": lambda: fills["normal"].tail(few),
        "calls of the truncated law": lambda: fills["truncated_normal"](few, out, scratch),
        "calls of the uniform law": lambda: fills["uniform"](few, out, scratch),
        **{
            f"{law} draw of (64, 64)": partial(sampling.draw, law, SMALL, 1.0, 1, "float32")
            for law in fills
        },
    }


def stages(quick: bool) -> list[dict[str, Any]]:
    """Returns the time of each stage."""
    rows = []
    for unit, made, divisor in (("value", per_value(), CHUNK), ("call", per_call(), 1)):
        repeat = 8 if unit == "value" else 50
        cases = {name: repeated(function, repeat) for name, function in made.items()}
        for name, times in interleaved(cases, 10 if quick else 30, warm=2).items():
            count = repeat * divisor * (128 if name == "first touch of memory" else 1)
            seconds = [taken / count for taken in times]
            rows.append(row("stage", "numpy", name, seconds, unit=unit))
    return rows
