"""A copy of the package that a test changes by a recipe of ARCHITECTURE.md, and runs.

Modules are named as in ARCHITECTURE.md: `sampling/laws`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import keras_he

PACKAGE = Path(keras_he.__file__).parent


class PackageCopy:
    """A copy of the package in a folder, and which of its modules were changed.

    Example:
        copy = PackageCopy(tmp_path)
        copy.insert("sampling/laws", after="LAWS = (", text="    Law(...),")
        assert copy.changed <= modules_of_recipe("a law")
        assert copy.run("import keras_he; print(...)") == "..."
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.changed = set()
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE, self.folder / "keras_he", ignore=ignored)

    def path(self, module):
        """Returns the file of a module."""
        return self.folder / "keras_he" / f"{module}.py"

    def replace(self, module, old, new):
        """Replaces a text that occurs once in a module."""
        source = self.path(module).read_text("utf-8")
        assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {module}"
        self.path(module).write_text(source.replace(old, new), "utf-8")
        self.changed.add(module)

    def insert(self, module, *, after, text):
        """Inserts lines after the one line of a module that begins with `after`."""
        lines = self.path(module).read_text("utf-8").splitlines()
        found = [number for number, line in enumerate(lines) if line.startswith(after)]
        assert len(found) == 1, f"{after!r} begins {len(found)} lines of {module}"
        lines[found[0] + 1 : found[0] + 1] = text.splitlines()
        self.path(module).write_text("\n".join(lines) + "\n", "utf-8")
        self.changed.add(module)

    def append(self, module, text):
        """Adds lines at the end of a module."""
        source = self.path(module).read_text("utf-8")
        self.path(module).write_text(f"{source}\n\n{text.strip()}\n", "utf-8")
        self.changed.add(module)

    def run(self, code=None, *, command=(), code_expected=0, **environment):
        """Returns what Python prints that runs code, or the command line, with this copy."""
        arguments = ["-c", code] if code is not None else ["-m", "keras_he", *command]
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,  # where `-c` and `-m` look first
            env={**os.environ, "PYTHONPATH": str(self.folder), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != code_expected:
            pytest.fail(f"exit code {done.returncode}, stderr ends in\n{done.stderr[-4000:]}")
        return done.stdout if code_expected == 0 else done.stdout + done.stderr


def modules_of_recipe(name):
    """Returns the modules of the package that ARCHITECTURE.md's recipe "To add …" names."""
    document = PACKAGE.parent / "ARCHITECTURE.md"
    if not document.exists():  # the wheel is tested without it
        pytest.skip("ARCHITECTURE.md is not here")
    recipes = document.read_text("utf-8").partition("\n## To add …\n")[2]
    found = re.search(rf"^- \*\*{re.escape(name)}\*\*: (.*?)(?=\n- |\n\n)", recipes, re.M | re.S)
    assert found, f"there is no recipe for {name!r}"
    named = re.findall(r"`([\w/]+)(?:\.\w+)?`", found[1])
    return {one for one in named if (PACKAGE / f"{one}.py").exists()}
