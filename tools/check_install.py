"""Runs what README.md says to install, each backend alone, as it is written.

    python tools/check_install.py [--before PACKAGE ...]

The first block of the section "Install" makes a virtual environment, and each of the others is a
way to go on. For each way a shell runs the first block and that one in a fresh clone; then keras_he
is imported in another folder, a layer is built by a string, and the command line is called.
`--before` names packages that are installed between the two blocks where the way names them, such
as a small build of PyTorch. Exits with 1 where a line fails.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USE = """
import keras, keras_he
layer = keras.layers.Dense(4, kernel_initializer="he_prelu")
layer.build((None, 3))
print(keras.backend.backend(), keras.__version__, layer.kernel_initializer)
"""


def blocks() -> list[str]:
    """Returns the commands of each block of the section."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## Install\n(.*?)^## ", text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"^```console\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    return ["\n".join(re.findall(r"^\$ (.*)$", block, flags=re.MULTILINE)) for block in found]


def try_way(prepare: str, way: str, before: list[str]) -> None:
    """Runs the lines of one way in a fresh clone, and uses the package elsewhere."""
    wanted = [one for one in before if f"[{one.partition('=')[0]}]" in way]
    first = [f"python -m pip install --quiet {one}" for one in wanted]
    use = ["cd /", f"python -c {shlex.quote(USE)}"]
    lines = [prepare, *first, way.replace("pip install", "pip install --quiet"), *use]
    kept = {k: v for k, v in os.environ.items() if k not in ("KERAS_BACKEND", "PYTHONPATH")}
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["git", "clone", "--quiet", ROOT, name], check=True)
        script = "\n".join(["set -e", *lines, "keras-he gain relu"])
        done = subprocess.run(
            ["sh", "-c", script], cwd=name, env=kept, capture_output=True, text=True, check=False
        )
    print(f"{way}\n{done.stdout}", flush=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])


def main(arguments: list[str]) -> None:
    """Tries every way."""
    before = arguments[1:] if arguments[:1] == ["--before"] else []
    prepare, *ways = blocks()
    if not ways:
        raise SystemExit("README.md has no section Install with blocks of commands.")
    for way in ways:
        try_way(prepare, way, before)


if __name__ == "__main__":
    main(sys.argv[1:])
