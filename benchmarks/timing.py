"""What the benchmarks share: timed calls, and facts about the machine.

Each round calls every case once, in random order, so that a change of load affects all cases.
`second_core` measures whether a second core was idle.
"""

import hashlib
import os
import platform
import random
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("keras", "numpy", "tensorflow-cpu", "tensorflow", "jax", "torch", "anyinit")

Cases = Mapping[str, Callable[[], object]]


def interleaved(
    cases: Cases,
    rounds: int,
    seconds: float = float("inf"),
    warm: int = 1,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Returns the seconds of each call of each case, taken in turns.

    Args:
        cases: What to call; what a call returns is freed before the next one.
        rounds: Calls of each case.
        seconds: After this long no new round begins, if there were three.
        warm: Rounds before, which do not count.
        before: Called before each call, out of its time.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    shuffle = random.Random(0).sample
    began = time.perf_counter()
    for number in range(-warm, rounds):
        if number >= 3 and time.perf_counter() - began > seconds:
            break
        for name in shuffle(list(cases), len(cases)):
            before()
            start = time.perf_counter()
            result = cases[name]()
            took = time.perf_counter() - start
            del result
            if number >= 0:
                times[name].append(took)
    return times


def repeated(function: Callable[[], object], count: int) -> Callable[[], object]:
    """Returns what calls a function many times, and keeps nothing."""

    def run() -> None:
        for _ in range(count):
            function()

    return run


def second_core() -> float:
    """Returns how much more two threads do than one: 2 if a second core is idle.

    They hash the same mebibyte again and again, and need neither a lock nor other memory for it.
    """
    data = bytes(2**20)

    def spin() -> None:
        for _ in range(12):
            hashlib.blake2b(data)

    def seconds(threads: int) -> float:
        others = [threading.Thread(target=spin) for _ in range(threads - 1)]
        start = time.perf_counter()
        for thread in others:
            thread.start()
        spin()
        for thread in others:
            thread.join()
        return time.perf_counter() - start

    return 2 * seconds(1) / seconds(2)


def ready(value: Any) -> Any:
    """Returns a value once its numbers are there: JAX computes them after it has returned."""
    return getattr(value, "block_until_ready", lambda: value)()


def row(table: str, backend: str, what: str, seconds: list[float], **of: Any) -> dict[str, Any]:
    """Returns one measurement, as JSON holds it."""
    return {"table": table, "backend": backend, "what": what, **of, "seconds": seconds}


def median(measured: Mapping[str, Any]) -> float:
    """Returns the median of a measurement, in seconds."""
    return statistics.median(measured["seconds"])


def machine() -> dict[str, str]:
    """Returns what the figures depend on."""
    found = {"python": platform.python_version(), "cores": str(os.cpu_count())}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found["processor"] = next(x.split(":")[1].strip() for x in lines if "model name" in x)
    except (OSError, StopIteration):  # not on Linux
        found["processor"] = platform.processor()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
