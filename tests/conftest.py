"""Fixtures that several test modules share."""

import inspect
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

QUICK_CASES = 8  # of each parametrized test, in `make test`


def pytest_configure(config: pytest.Config) -> None:
    """Lets pass what Keras itself warns of, and makes reports as wide as where no terminal is."""
    os.environ.pop("COLUMNS", None)
    config.addinivalue_line(
        "filterwarnings",
        # Keras' variables and PyTorch's tensors have no such keyword, and NumPy 2 wants one.
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    )


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks as slow all but a few cases of each parametrized test: `make test` runs these few.

    `@pytest.mark.quick(number)` says how many, if not eight. The choice is random but fixed. Slow
    tests in the folders that KERAS_HE_QUICK_FOLDERS lists are left out.
    """
    tables: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        name = item.name.partition("[")[0]
        tables.setdefault((item.path, name), []).append(item)
    for cases in tables.values():
        marker = cases[0].get_closest_marker("quick")
        count = min(marker.args[0] if marker else QUICK_CASES, len(cases))
        kept = random.Random(0).sample(range(len(cases)), count)
        for index in set(range(len(cases))) - set(kept):
            cases[index].add_marker(pytest.mark.slow)
    folders = os.environ.get("KERAS_HE_QUICK_FOLDERS", "").split()
    left = [one for one in items if one.path.parent.name in folders and _is_slow(one)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [one for one in items if one not in set(left)]


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def pytest_report_header() -> str:
    """Tells the versions that differ between the legs of CI."""
    import keras
    import numpy

    python, backend = sys.version.split()[0], keras.backend.backend()
    numbers = f"Python {python}, Keras {keras.__version__}, NumPy {numpy.__version__}"
    return f"{numbers}, {backend} {sys.modules[backend].__version__}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hands what a worker of pytest-xdist has recorded to the process that prints."""
    if hasattr(session.config, "workeroutput") and "routes" in sys.modules:
        session.config.workeroutput["routes"] = sys.modules["routes"].TABLE


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes what a worker hands over."""
    import routes

    for route, row in getattr(node, "workeroutput", {}).get("routes", {}).items():
        routes.TABLE.setdefault(route, {}).update(row)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints how far models were apart after each route, if any route was taken."""
    taken = sys.modules.get("routes")
    lines = taken.lines() if taken else []
    if lines:
        terminalreporter.section("largest difference by route and model")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture(scope="session")
def run_python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Returns a function that runs code in a fresh process and returns what it prints.

    The process starts in an empty folder and inherits the environment, so that `KERAS_BACKEND`
    holds there too. Code that fails fails the test, with the end of what it wrote to stderr.
    """

    def run(*parts: Any, python: str = sys.executable, **environment: str) -> str:
        """Runs one script out of its parts: code, or functions and classes for their source."""
        folder = tmp_path_factory.mktemp("process")
        script = Path(folder, "script.py")
        code = (part if isinstance(part, str) else inspect.getsource(part) for part in parts)
        script.write_text("\n\n".join(code), encoding="utf-8")
        done = subprocess.run(
            [python, script],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"exit code {done.returncode}, stderr ends in\n{done.stderr[-4000:]}")
        return done.stdout

    return run
