"""Measures draws: values per second, one call for a small kernel, and the gain of threads.

A part of `benchmarks/run.py`. The same rounds call Keras' initializers, `torch.nn.init`,
`jax.nn.initializers`, and a plain fill of memory, which is the limit.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from timing import interleaved, ready, repeated, row, second_core

import keras_he
from keras_he.sampling.stream import THREADS_VARIABLE

BACKEND = keras.backend.backend()
DTYPES = ("float32", "bfloat16")
SIZES = (10**4, 10**5, 10**6, 10**7, 64 * 10**6, 25 * 10**7)
QUICK_SIZES = (10**4, 10**6, 64 * 10**6)
SMALL = ((64, 64), (3, 3, 64, 64), (512, 512))
OURS = (keras_he.KaimingNormal, keras_he.KaimingTruncatedNormal, keras_he.KaimingUniform)

Draw = Callable[[tuple[int, ...], str], Any]


def ours() -> dict[str, Draw]:
    """Returns the laws that are drawn element by element."""
    return {one.__name__: _called(one(seed=1)) for one in OURS}


def peers() -> dict[str, Draw]:
    """Returns what draws the same laws on this backend."""
    initializers = keras.initializers
    untruncated = initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal", seed=1)
    found = {
        "keras HeNormal": _called(initializers.HeNormal(seed=1)),
        "keras untruncated": _called(untruncated),
        "keras HeUniform": _called(initializers.HeUniform(seed=1)),
    }
    if BACKEND == "torch":
        import torch

        def filled(name: str) -> Draw:
            fill = getattr(torch.nn.init, name)
            return lambda shape, dtype: fill(torch.empty(shape, dtype=getattr(torch, dtype)))

        for name in ("kaiming_normal_", "kaiming_uniform_", "trunc_normal_"):
            found[f"torch {name}"] = filled(name)
    if BACKEND == "jax":
        import jax

        key = jax.random.key(1)
        for name in ("he_normal", "he_uniform"):
            draw = getattr(jax.nn.initializers, name)()
            found[f"jax {name}"] = lambda shape, dtype, draw=draw: ready(draw(key, shape, dtype))
    return found


def _called(initializer: Any) -> Draw:
    return lambda shape, dtype: ready(initializer(shape, dtype))


def touched(size: int) -> None:
    """Leaves free memory for a draw that the machine has at hand: some take back what lies idle."""
    ready(keras.ops.zeros(()))  # JAX frees what it was lent in its next call
    np.ones(size, np.float32)


def fill(shape: tuple[int, ...], dtype: str) -> Any:
    """Returns memory of a kernel's size, written once."""
    values = np.empty(shape, np.float32 if dtype == "float32" else np.uint16)
    values.fill(1)
    return values


def throughput(quick: bool) -> list[dict[str, Any]]:
    """Returns the time of a draw by law, dtype and size."""
    rows = []
    draws: dict[str, Draw] = {**ours(), **peers(), "memory fill": fill}
    for size in QUICK_SIZES if quick else SIZES:
        shape = (1000, size // 1000)
        for dtype in DTYPES[: 1 if quick else 2]:
            cases = {name: partial(draw, shape, dtype) for name, draw in draws.items()}
            rounds, limit = (11, 40.0) if size > 10**6 else (50, 3.0)
            largest = size == max(SIZES)  # where some peers take half a minute for one draw
            times = interleaved(
                cases,
                1 if largest else rounds,
                limit,
                warm=0 if largest else 1,
                before=partial(touched, size),
            )
            rows += [row("draw", BACKEND, n, t, dtype=dtype, size=size) for n, t in times.items()]
    return rows


def calls(quick: bool) -> list[dict[str, Any]]:
    """Returns the time of one call for small kernels, called many times in a row."""
    rows = []
    for shape in SMALL:
        cases = {
            name: repeated(partial(draw, shape, "float32"), 20)
            for name, draw in {**ours(), **peers()}.items()
        }
        for name, times in interleaved(cases, 20 if quick else 150, 15.0, warm=2).items():
            one = [seconds / 20 for seconds in times]
            rows.append(row("call", BACKEND, name, one, shape=list(shape)))
    return rows


def threads(quick: bool) -> list[dict[str, Any]]:
    """Returns the time of a draw by number of threads, and whether a second core was idle then.

    On PyTorch also that of `torch.nn.init`, whose normal law has one thread.
    """
    size = 64 * 10**6
    counts = [n for n in (1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]
    others = {name: draw for name, draw in peers().items() if name.startswith("torch kaiming")}
    cases = [(name, draw, count) for name, draw in ours().items() for count in counts]
    cases += [(name, draw, counts[-1]) for name, draw in others.items()]
    rows = [
        row("threads", BACKEND, name, [], size=size, threads=count, second_core=[])
        for name, _, count in cases
    ]
    try:
        for number in range(-1, 8 if quick else 30):
            for (_, draw, count), taken in zip(cases, rows, strict=True):
                os.environ[THREADS_VARIABLE] = str(count)
                case = {"once": partial(draw, (1000, size // 1000), "float32")}
                before = second_core()
                seconds = interleaved(case, 1, warm=0, before=partial(touched, size))["once"]
                idle = min(before, second_core())
                if number >= 0:
                    taken["seconds"] += seconds
                    taken["second_core"].append(idle)
    finally:
        os.environ.pop(THREADS_VARIABLE, None)
    return rows
