"""Measures the import of keras_he, and the gain of each activation, which no draw has cached.

    python benchmarks/startup.py

Each line is the median, the smallest and the largest time. Each import has a fresh process.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from timing import row

IMPORT = """
import time
import keras
start = time.perf_counter()
import keras_he
print(1e3 * (time.perf_counter() - start))
"""


def import_times(count: int = 7) -> list[float]:
    """Returns milliseconds that `import keras_he` takes after `import keras`, once compiled."""
    command = [sys.executable, "-c", IMPORT]
    times = []
    with tempfile.TemporaryDirectory() as compiled:  # as an installed package's bytecode is
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for _ in range(1 + count):
            done = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True
            )
            times.append(float(done.stdout))
    return times[1:]


def rows(quick: bool) -> list[dict[str, Any]]:
    """Returns the measurements of the import, for `benchmarks/run.py`."""
    seconds = [1e-3 * taken for taken in import_times(3 if quick else 7)]
    return [row("startup", "any", "import keras_he, after keras", seconds)]


def call_times(function: Callable[[], object], count: int = 15) -> list[float]:
    """Returns milliseconds of each call."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def show(what: str, times: list[float]) -> None:
    """Prints a row: median, smallest and largest."""
    low, middle, high = min(times), statistics.median(times), max(times)
    print(f"{what:<38}{middle:8.2f} ms   ({low:.2f} to {high:.2f})")


def main() -> None:
    """Prints the table."""
    show("import keras_he, after keras", import_times())

    import numpy as np

    import keras_he
    from keras_he.theory import activations

    def fresh(name: str) -> Callable[[], object]:
        def run() -> None:
            activations._moments.cache_clear()
            keras_he.gain(name)

        return run

    for name in sorted(set(activations.KNOWN) - set(activations.REFUSED)):
        show(f"gain({name!r}), not cached", call_times(fresh(name)))
    callables = {
        "np.tanh": np.tanh,
        "lambda x: x**3": lambda x: x**3,
        "lambda x: np.maximum(x - 0.3, 0)": lambda x: np.maximum(x - 0.3, 0),
        "lambda x: np.where(x > 0.3, 1, x)": lambda x: np.where(x > 0.3, 1, x),
    }
    for text, function in callables.items():
        show(f"gain({text})", call_times(lambda function=function: keras_he.gain(function)))


if __name__ == "__main__":
    main()
