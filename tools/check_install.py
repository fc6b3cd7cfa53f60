"""Runs what README.md says to install, each backend alone, in a fresh environment.

    python tools/check_install.py [--before PACKAGE ...]

Each block of the section "Install" is a way: its lines are run in a copy of the checkout, by a new
virtual environment's Python, and `export` sets a variable. Then keras_he is imported, a layer is
built by a string, and the command line is called. `--before` names packages that are installed
first, such as a small build of PyTorch. Exits with 1 where a line fails.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USE = """
import keras, keras_he
layer = keras.layers.Dense(4, kernel_initializer="he_prelu")
layer.build((None, 3))
print(keras.backend.backend(), keras.__version__, layer.kernel_initializer)
"""


def ways() -> list[list[str]]:
    """Returns the commands of each block of the section."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## Install\n(.*?)^## ", text, flags=re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```console\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    return [re.findall(r"^\$ (.*)$", block, flags=re.MULTILINE) for block in blocks]


def try_way(lines: list[str], before: list[str]) -> None:
    """Runs the lines of one way, and then uses the package."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkout = folder / "checkout"
        subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True)
        venv.create(folder / "environment", with_pip=True)
        programs = folder / "environment" / "bin"
        kept = {k: v for k, v in os.environ.items() if k not in ("KERAS_BACKEND", "PYTHONPATH")}
        environment = {**kept, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

        def run(*command: str, where: Path) -> str:
            done = subprocess.run(
                command, cwd=where, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{shlex.join(command)}: {done.stderr[-3000:]}")
            return done.stdout.strip()

        wanted = [one for one in before if any(f"[{one.partition('=')[0]}]" in x for x in lines)]
        if wanted:
            run("python", "-m", "pip", "install", "--quiet", *wanted, where=folder)
        for line in lines:
            words = shlex.split(line)
            if words[0] == "export":
                variable, _, value = words[1].partition("=")
                environment[variable] = value
            else:
                run(*words, where=checkout)
        print(f"{' && '.join(lines)}\n  {run('python', '-c', USE, where=folder)}")
        gain = run("keras-he", "gain", "relu", where=folder).splitlines()[0]
        print(f"  keras-he gain relu: {gain}", flush=True)


def main(arguments: list[str]) -> None:
    """Tries every way."""
    before = arguments[1:] if arguments[:1] == ["--before"] else []
    found = ways()
    if not found:
        raise SystemExit("README.md has no section Install with blocks of commands.")
    for lines in found:
        try_way(lines, before)


if __name__ == "__main__":
    main(sys.argv[1:])
