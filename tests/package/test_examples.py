"""The examples run as a user runs them, and say what they should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LOADED = (
    "The saved .keras file, loaded in a fresh process, gives the same probabilities, bit for bit"
)
SERVED = {
    "tensorflow": "The export, loaded and run by the TensorFlow C++ SavedModel loader that "
    "TensorFlow Serving uses, with no Keras and no keras_he in the process, "
    "gives the same probabilities, bit for bit",
    "jax": "The export through the C++ loader is for the TensorFlow backend",
    "torch": "The export through the C++ loader is for the TensorFlow backend",
}


def run(script, folder):
    """Returns an example's finished process, run as a user runs it."""
    quiet = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")  # what the script sets by itself
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    return subprocess.run(
        [sys.executable, EXAMPLES / script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_quickstart_trains_saves_loads_and_serves(tmp_path):
    done = run("quickstart.py", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.replace("\n", "").isprintable()  # no control characters in a log
    said = " ".join(done.stdout.split())
    assert said.count("Epoch ") == 6
    assert LOADED in said
    assert SERVED[keras.backend.backend()] in said
    # 1 in 10 is chance; weights whose signal dies or explodes stay near it.
    assert float(re.search(r"accuracy (0\.\d+)\.", said)[1]) >= 0.9
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def test_vgg16_learns_after_the_call_and_not_before(tmp_path):
    if keras.backend.backend() == "jax":
        pytest.skip("JAX compiles and trains VGG16 for minutes on a CPU")
    done = run("initialize_a_model.py", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    before, after = map(float, re.findall(r"accuracy on new digits (0\.\d+)", said))
    assert before < 0.2  # one in ten is chance
    assert after > 0.4
    assert "14 of 14 kernels initialized" in said
    assert "draws the same weights: True" in said
