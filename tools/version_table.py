"""Compares keras_he over Pythons, Keras and NumPy versions and backends, and prints a table.

    python tools/version_table.py .venv/bin/python:tensorflow .venv/bin/python:jax ...

Each argument is a Python that has keras_he, and a backend. In each of them a process draws from
every string, reads the gains of all activations, saves a model, loads it in another fresh process,
initializes and audits a model, and calls the command line. The first row is what the others are
compared with: draws and loaded weights bit for bit, gains to 1e-12, measured gains to one unit of
their three digits, findings and command line word for word. Exits with 1 where a row differs.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

COLUMNS = ("draws", "gains", "saved", "initialize", "audit", "command")


def probe(folder: Path) -> dict:
    """Returns what keras_he does in this process, and writes a model."""
    import keras
    import numpy as np

    import keras_he

    def host(tensor) -> np.ndarray:
        return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))

    draws, strings = hashlib.sha256(), 0
    for name in keras_he.names():
        layer = keras.layers.Dense(3, kernel_initializer=name)
        strings += layer.kernel_initializer.get_config() == keras_he.get(name).get_config()
        seeded = keras_he.get({"class_name": name, "config": {"seed": 1}})
        draws.update(host(seeded((3, 3, 8, 4))).tobytes())
    for dtype in ("float16", "bfloat16"):
        draws.update(host(keras_he.KaimingNormal("gelu", seed=2)((70, 50), dtype)).tobytes())

    saved = network(named=True)
    for ending in (".keras", ".h5"):
        saved.save(folder / f"saved{ending}")
    inputs = np.sin(np.arange(32 * 8 * 8 * 3, dtype="float64") ** 1.5).astype("float32")
    inputs = inputs.reshape(32, 8, 8, 3) * np.float32(2**0.5)
    np.save(folder / "inputs.npy", inputs)
    model = network(named=False)
    before = keras_he.audit(model, inputs)
    report = keras_he.initialize(model, inputs, seed=1)
    after = keras_he.audit(model, inputs)
    return {
        "strings": strings == len(keras_he.names()),
        "draws": draws.hexdigest(),
        "gains": gains(),
        "weights": digest(saved),
        "initialize": {
            f"{row.path}: {row.rule}": row.gain for row in report.kernels if row.gain is not None
        },
        "audit": [
            sorted(f"{one.verdict} {one.remedy}" for one in seen.findings)
            for seen in (before, after)
        ],
        "versions": {
            "Python": ".".join(str(part) for part in sys.version_info[:3]),
            "Keras": keras.__version__,
            "NumPy": np.__version__,
            "backend": f"{keras.backend.backend()} {backend_version()}",
        },
    }


def gains() -> dict:
    """Returns the gains of all known activations, of layers and of functions."""
    import keras
    import numpy as np

    import keras_he
    from keras_he.theory.activations import NAMES

    modes = ("fan_in", "fan_out", "fan_avg")
    found = {f"{name} {mode}": keras_he.gain(name, mode=mode) for name in NAMES for mode in modes}
    found["layer"] = keras_he.gain(keras.layers.LeakyReLU(0.1))
    found["function"] = keras_he.gain(lambda x: x * np.tanh(x))
    return found


def network(*, named: bool):
    """Returns a model: with every kernel by a string, or as Keras makes it."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(7)

    def by(name: str) -> dict:
        return {"kernel_initializer": name} if named else {}

    depthwise = {"depthwise_initializer": "he_prelu_depthwise"} if named else {}
    slopes = {"alpha_initializer": keras.initializers.Constant(0.25), "shared_axes": [1, 2]}
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="x"),
            layers.Conv2D(16, 3, name="first", **by("he_linear")),
            layers.PReLU(**slopes, name="slopes"),
            layers.DepthwiseConv2D(3, name="depthwise", **depthwise),
            layers.ReLU(name="relu"),
            layers.Conv2DTranspose(8, 4, strides=2, name="wider", **by("he_relu_uniform")),
            layers.Flatten(name="flat"),
            layers.Dense(32, activation="gelu", name="dense", **by("he_tanh_truncated")),
            layers.Dense(4, name="last", **by("he_gelu_orthogonal")),
        ],
        name="network",
    )


def digest(model) -> str:
    """Returns a digest of a model's weights."""
    import numpy as np

    found = hashlib.sha256()
    for one in model.get_weights():
        found.update(np.ascontiguousarray(one, "float32").tobytes())
    return found.hexdigest()


def backend_version() -> str:
    """Returns the version of the package that Keras computes with."""
    import importlib

    import keras

    return str(importlib.import_module(keras.backend.backend()).__version__)


def load(folder: Path) -> dict:
    """Returns the digests of what another process saved."""
    import keras

    import keras_he  # noqa: F401 - registers the classes

    return {
        ending: digest(keras.models.load_model(folder / f"saved{ending}"))
        for ending in (".keras", ".h5")
    }


def commands(python: str, folder: Path, environment: dict) -> list:
    """Returns what commands print, and their exit codes."""
    told = []
    for line in ("names he_gelu*", "gain silu", "gain silu --mode fan", "audit saved.keras --json"):
        arguments = [*line.split(), *(["-", "--no-backward"] if "json" in line else [])]
        if "json" in line:
            arguments += ["--data", "inputs.npy"]
        done = run([python, "-m", "keras_he", *arguments], folder, environment)
        printed = done.stdout.strip()
        if "json" in line and done.returncode == 0:
            found = json.loads(printed)["findings"]
            printed = sorted(f"{one['verdict']} {one['remedy']}" for one in found)
        told.append([line, done.returncode, printed])
    return told


def run(command: list, folder: Path, environment: dict) -> subprocess.CompletedProcess:
    """Runs a command in a folder."""
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def look(python: str, backend: str) -> dict:
    """Returns what one Python says with one backend."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {}
        for step in ("probe", "load"):
            done = run([python, __file__, f"--{step}", name], folder, environment)
            if done.returncode:
                raise SystemExit(f"{python} with {backend}: {done.stderr[-3000:]}")
            found[step] = json.loads(done.stdout.splitlines()[-1])
        told = commands(python, folder, environment)
    return {**found["probe"], "loaded": found["load"], "command": told}


def agrees(found: dict, first: dict) -> dict[str, bool]:
    """Returns whether each column of a row is as in the first."""

    def close(name: str, tolerance: float) -> bool:
        pairs = [(found[name].get(key), value) for key, value in first[name].items()]
        return found[name].keys() == first[name].keys() and all(
            one == other or abs(one - other) <= tolerance * abs(other) for one, other in pairs
        )

    return {
        "draws": found["strings"] and found["draws"] == first["draws"],
        "gains": close("gains", 1e-12),
        "saved": all(one == found["weights"] for one in found["loaded"].values())
        and found["weights"] == first["weights"],
        "initialize": close("initialize", 1.01e-2),
        "audit": found["audit"] == first["audit"],
        "command": found["command"] == first["command"],
    }


def main(arguments: list[str]) -> int:
    """Prints the table; returns the exit code."""
    if arguments[:1] in (["--probe"], ["--load"]):
        function = {"--probe": probe, "--load": load}[arguments[0]]
        print(json.dumps(function(Path(arguments[1]))))
        return 0
    rows = [look(*one.rsplit(":", 1)) for one in arguments]
    heads = ("Python", "Keras", "NumPy", "backend", *COLUMNS)
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    failed = 0
    for row in rows:
        equal = agrees(row, rows[0])
        failed += not all(equal.values())
        cells = [
            *row["versions"].values(),
            *("equal" if equal[one] else "OTHER" for one in COLUMNS),
        ]
        print(f"| {' | '.join(cells)} |")
        for name in (name for name in COLUMNS if not equal[name]):
            print(f"  {name}: {row.get(name)}\n  expected: {rows[0].get(name)}", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
