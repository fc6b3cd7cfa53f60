"""The quickstart runs as a user runs it, and says what it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras

QUICKSTART = Path(__file__).resolve().parents[1] / "examples" / "quickstart.py"
LOADED = (
    "The saved .keras file, loaded in a fresh process, gives the same probabilities, bit for bit"
)
SERVED = {
    "tensorflow": "The export, loaded and run by the TensorFlow C++ SavedModel loader that "
    "TensorFlow Serving uses, with no Keras and no keras_he in the process, "
    # Bit for bit on few cores; more of them sum in another order, within the script's own bound.
    "gives the same probabilities,",
    "jax": "The export through the C++ loader is for the TensorFlow backend",
    "torch": "The export through the C++ loader is for the TensorFlow backend",
}


def test_the_quickstart_trains_saves_loads_and_serves(tmp_path):
    quiet = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")  # what the script sets by itself
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    done = subprocess.run(
        [sys.executable, QUICKSTART],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.replace("\n", "").isprintable()  # no control characters in a log
    said = " ".join(done.stdout.split())
    assert said.count("Epoch ") == 6
    assert LOADED in said
    assert SERVED[keras.backend.backend()] in said
    # 1 in 10 is chance; weights whose signal dies or explodes stay near it.
    assert float(re.search(r"accuracy (0\.\d+)\.", said)[1]) >= 0.9
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind
