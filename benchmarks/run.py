"""Measures everything in one run, and prints tables; writes JSON, Markdown and a plot if asked.

    python -m pip install -e ".[tensorflow,jax,torch,benchmark]"    # in a checkout of keras_he
    python benchmarks/run.py                        # all parts, 45 minutes
    python benchmarks/run.py --quick                # three minutes: fewer sizes, TensorFlow only
    python benchmarks/run.py draws calls            # some parts
    python benchmarks/run.py --markdown docs/performance.md --json speed.json --plot speed.png

Each part runs in its own process on each backend, in the same rounds as what it is compared with.
The figures are medians. Nothing else should run on the machine: the table of threads shows it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tables
import timing

ALL = ("tensorflow", "jax", "torch")
# Part: the module and the function that measure it, and the backends that it is measured on.
PARTS = {
    "stages": ("stages", "stages", ("tensorflow",)),
    "draws": ("sampler", "throughput", ALL),
    "threads": ("sampler", "threads", ("tensorflow", "torch")),
    "calls": ("sampler", "calls", ALL),
    "memory": ("memory", "peaks", ALL),
    "building": ("building", "building", ALL),
    "loading": ("building", "loading", ALL),
    "initialize": ("building", "initializing", ("tensorflow",)),
    "startup": ("startup", "rows", ("tensorflow",)),
}
MARK = "measured: "
BEGIN, END = "<!-- measured -->", "<!-- end of what was measured -->"


def measure(part: str, quick: bool) -> list[dict[str, Any]]:
    """Returns the measurements of a part, made in this process."""
    module, function, _ = PARTS[part]
    measured: Callable[[bool], list[dict[str, Any]]] = getattr(__import__(module), function)
    return measured(quick)


def in_process(part: str, backend: str, quick: bool) -> list[dict[str, Any]]:
    """Returns the measurements of a part, made in a process of its own."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, part, "--child", *(["--quick"] if quick else [])]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return list(json.loads(line[len(MARK) :]))
    print(f"{part} on {backend} failed, see above; it is left out", file=sys.stderr)
    return []


def inserted(path: Path, text: str) -> str:
    """Returns a document with its measured part replaced, or the text alone if it has none."""
    head, start, rest = (path.read_text() if path.exists() else "").partition(BEGIN)
    if not start:
        return text
    return f"{head}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="three minutes instead of 45")
    parser.add_argument("--backends", nargs="+", choices=ALL, help="instead of all there are")
    parser.add_argument("--json", type=Path, help="write every time that was taken")
    parser.add_argument(
        "--markdown", type=Path, help="write the tables, into their place in a document"
    )
    parser.add_argument("--plot", type=Path, help="write the picture, a PNG")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    found = parser.parse_args(given)
    unknown = set(found.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return found


def main() -> None:
    """Measures, prints and writes."""
    chosen = arguments()
    if chosen.child:
        print(MARK + json.dumps(measure(chosen.parts[0], chosen.quick)), flush=True)
        return
    installed = [name for name in ALL if find_spec(name)]
    backends = chosen.backends or (installed[:1] if chosen.quick else installed)
    began, rows = time.perf_counter(), []
    for part in chosen.parts or PARTS:
        for backend in PARTS[part][2]:
            if backend in backends:
                print(f"{time.perf_counter() - began:5.0f} s  {part} on {backend}", file=sys.stderr)
                rows += in_process(part, backend, chosen.quick)
    there = ", ".join(f"{name} {value}" for name, value in timing.machine().items())
    text = "\n".join(table.markdown() for table in tables.tables(rows))
    print(f"\n{there}\n\n{text}\n{time.perf_counter() - began:.0f} seconds in all.")
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": timing.machine(), "rows": rows}))
    if chosen.markdown:
        chosen.markdown.write_text(inserted(chosen.markdown, f"{there}.\n\n{text}"))
    if chosen.plot:
        tables.plot(rows, str(chosen.plot), there)


if __name__ == "__main__":
    main()
