"""What the tests of examples/serving get: the scripts as modules, and one export of digits."""

import shlex

import numpy as np
import pytest
import serving_example
from serving_example import Exported, finished, process_of


@pytest.fixture(scope="session")
def scripts():
    return serving_example.scripts()


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Returns version 1 of digits, written by the command that the README gives."""
    folder = tmp_path_factory.mktemp("site")
    _, *arguments = shlex.split(serving_example.command("export_model.py"))[1:]
    status, said, err = finished(process_of("export_model.py", *arguments, cwd=folder))
    assert (status, err) == (0, "")
    with np.load(folder / "digits.npz") as file:
        arrays = dict(file)
    base = folder / "models"
    return Exported(base, base / "digits" / "1", folder / "digits.npz", arrays, said)
