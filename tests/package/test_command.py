"""The command line, run as a user runs it: one process for each command."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import keras_he

L = keras.layers
# A process takes seconds, and most of what is refused never comes to a backend.
EVERYWHERE = ("test_audit_prints", "test_init_tells", "test_init_keeps", "test_portable_tells")
FULLY = keras.backend.backend() == "tensorflow" and not keras.__version__.startswith("3.12.")
ROOT = Path(keras_he.__file__).resolve().parents[1]

# Layers of one's own: one talks where a report may be read by a program, and one cannot be saved
# by the command line.
OWN = """
import keras

@keras.saving.register_keras_serializable("command_line")
class Loud(keras.layers.Layer):
    def call(self, x):
        print("LOUD")
        return x

@keras.saving.register_keras_serializable("command_line")
class Sealed(keras.layers.Layer):
    def call(self, x):
        return x

    def get_config(self):
        if __name__ == "own_layers":
            raise RuntimeError("it is sealed")
        return super().get_config()
"""


def sequential(*layers):
    model = keras.Sequential([keras.Input((16,), name="x"), *layers])
    model.compile(keras.optimizers.Adam(0.25), "mean_squared_error", metrics=["mae"])
    return model


def own_layers(folder):
    """Writes the module of the user's own layers, and returns it under another name."""
    path = folder / "own_layers.py"
    path.write_text(OWN, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("layers_here", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of_newer_keras(source, target):
    """Writes a file as a Keras to come might: with a version and a keyword that are not known."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "metadata.json":
                content = json.dumps({**json.loads(content), "keras_version": "99.0.0"})
            if name == "config.json":
                config = json.loads(content)
                config["config"]["layers"][1]["config"]["sparkle"] = 1
                content = json.dumps(config)
            new.writestr(name, content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns the folder in which every command runs, with models and data."""
    folder = tmp_path_factory.mktemp("command")
    keras.utils.set_random_seed(3)
    model = sequential(L.Dense(16, "relu", kernel_initializer="he_linear"), L.Dense(4))
    model.save(folder / "model.keras")
    for ending in (".keras", ".h5"):
        flawed = sequential(L.Dense(16, "relu"), L.Dense(4))
        flawed.layers[-1].kernel.assign(np.zeros((16, 4)))
        flawed.save(folder / f"flawed{ending}")
    ours = sequential(
        L.Dense(16, "relu", kernel_initializer="he_linear_uniform"),
        L.Dense(8, "gelu", kernel_initializer=keras_he.KaimingOrthogonal(seed=1)),
        L.Dense(4),
    )
    ours.save(folder / "ours.keras")
    sequential(L.Lambda(lambda x: 2 * x), L.Dense(4)).save(folder / "lambda.keras")
    own = own_layers(folder)
    sequential(own.Loud(), L.Dense(4)).save(folder / "own.keras")
    sequential(own.Sealed(), L.Dense(4)).save(folder / "sealed.keras")

    whole = (folder / "model.keras").read_bytes()
    (folder / "cut.keras").write_bytes(whole[: len(whole) // 2])
    whole = (folder / "flawed.h5").read_bytes()
    (folder / "cut.h5").write_bytes(whole[: len(whole) // 2])
    for ending in (".keras", ".h5"):
        (folder / f"noise{ending}").write_bytes(np.random.default_rng(0).bytes(4096))
    of_newer_keras(folder / "model.keras", folder / "newer.keras")

    x = np.random.default_rng(1).standard_normal((64, 16)).astype("float32")
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x=x)
    np.save(folder / "narrow.npy", x[:, :5])
    np.save(folder / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    if FULLY:
        write_what_is_no_model(folder, model)
    return folder


def write_what_is_no_model(folder, model):
    """Writes files and folders that a user may take for a model, by what makes them where it can.

    What only other programs make is written by its first bytes, or by its name alone.
    """
    model.save_weights(folder / "sound.weights.h5")
    with h5py.File(folder / "legacy.h5", "w") as file:  # as Keras 2 wrote weights
        file.attrs["layer_names"] = ["dense"]
        file["dense/kernel"] = model.layers[0].kernel.numpy()
    model.export(folder / "served" / "1", verbose=False)
    shutil.copytree(folder / "served" / "1", folder / "exported")
    import tensorflow as tf

    tf.train.Checkpoint(model=model).save(folder / "checkpoints" / "ckpt")
    (folder / "nothing").mkdir()
    with zipfile.ZipFile(folder / "model.keras") as archive:
        archive.extractall(folder / "preset")
    (folder / "model.json").write_text(model.to_json(), encoding="utf-8")
    shutil.copy(folder / "model.keras", folder / "archive.h5")
    shutil.copy(folder / "flawed.h5", folder / "hdf.keras")
    np.savez(folder / "arrays.npz", *model.get_weights())
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with zipfile.ZipFile(folder / "other.zip", "w") as archive:
        archive.writestr("notes.txt", b"")
    with zipfile.ZipFile(folder / "metadata.keras", "w") as archive:
        archive.writestr("config.json", "[1]")
        archive.writestr("metadata.json", "null")
    squeezed = (folder / "metadata.keras").read_bytes()
    # The method of compression stands 8 bytes into a local header, 10 bytes into a central one.
    for header, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        parts = squeezed.split(header)
        parts[1:] = [one[: place - 4] + b"\x63\0" + one[place - 2 :] for one in parts[1:]]
        squeezed = header.join(parts)
    (folder / "squeezed.keras").write_bytes(squeezed)
    (folder / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    (folder / "model.onnx").write_bytes(b"\x08\x0a")
    (folder / "notes.txt").write_text("notes", encoding="utf-8")


@pytest.fixture(scope="module")
def command(folder):
    """Returns a function that runs a command in the folder and returns the finished process."""

    def run(*arguments, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "keras_he", *arguments],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == code, done.stderr[-4000:]
        return done

    return run


def environment():
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONIOENCODING": "utf-8",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


@pytest.fixture(scope="module")
def refusal(command):
    """Returns a function that runs a command which cannot be done, and returns what it says."""

    def run(*arguments):
        done = command(*arguments, code=2)
        said = [line for line in done.stderr.splitlines() if line.startswith("keras-he: ")]
        assert len(said) == 1, done.stderr[-4000:]
        assert "Traceback" not in done.stderr
        return said[0].removeprefix("keras-he: ")

    return run


def weights(path):
    return [one.numpy() for one in keras.models.load_model(path).weights]


def temporary(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# Help


def test_help_shows_examples_and_exit_codes(command):
    said = command("--help").stdout
    for one in ("audit", "init", "names", "gain", "portable"):
        assert f"\n  keras-he {one} " in said
    assert "exit codes: 0 success, 1 --fail-on found something, 2 the command failed" in said


# audit


def test_audit_prints_a_report_and_writes_a_page_and_json(command, folder):
    said = command(
        *"audit model.keras --data x.npy --html page.html --json report.json --fail-on any".split()
    ).stdout
    assert "no findings; 2 of 2 kernels checked" in said
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (report["audited"], report["findings"]) == (True, [])
    assert report["gradient_spread"] is not None


@pytest.fixture(scope="module")
def found(command):
    """Returns the audit of a model with a kernel of zeros, out of a .h5 file, without gradient."""
    options = "--data x.npz --json - --no-backward --fail-on exploding,constant"
    return command("audit", "flawed.h5", *options.split(), code=1)


@pytest.mark.slow
def test_fail_on_a_verdict_that_is_found_exits_with_1(found):
    verdicts = [one["verdict"] for one in json.loads(found.stdout)["findings"]]
    assert "constant" in verdicts


@pytest.mark.slow
def test_no_backward_leaves_the_gradient_out(found):
    rows = [row["figures"] for row in json.loads(found.stdout)["rows"] if row["figures"]]
    assert len(rows) == 2
    assert {row["kernel_gradient"] for row in rows} == {None}


@pytest.mark.slow
def test_fail_on_a_verdict_that_is_not_found_exits_with_0(command):
    assert "constant" in command("audit", "flawed.keras", "--fail-on", "exploding").stdout


def test_fail_on_an_unknown_verdict_is_refused(refusal):
    said = refusal("audit", "model.keras", "--fail-on", "vanishin")
    assert said == "--fail-on knows no 'vanishin'. Did you mean \"vanishing\"?"


@pytest.mark.slow
def test_import_names_the_module_of_the_users_layers_and_json_is_all_of_stdout(command):
    done = command("audit", "own.keras", "--import", "own_layers", "--json", "-")
    assert json.loads(done.stdout)["audited"] is True
    assert "LOUD" in done.stderr  # what a layer prints is not lost


# init


@pytest.fixture(scope="module")
def initialized(command):
    return command("init", "model.keras", "one.keras", "--data", "x.npy", "--seed", "5")


def test_init_tells_what_it_did(initialized):
    assert "2 of 2 kernels initialized (normal, fan_in, seed 5), measured on" in initialized.stdout


def test_init_writes_a_model_that_keeps_its_compile_state(initialized, folder):
    model = keras.models.load_model(folder / "one.keras")
    assert model.compiled
    assert type(model.optimizer).__name__ == "Adam"
    assert float(model.optimizer.learning_rate) == 0.25
    assert model.loss == "mean_squared_error"


def test_init_keeps_the_second_moment_of_every_layer(initialized, folder):
    model = keras.models.load_model(folder / "one.keras")
    x = np.load(folder / "x.npy")
    first, last = (one.numpy() for one in model.weights if len(one.shape) > 1)
    hidden = x @ first
    # Float32 sums of 1024 products, and a gain that is kept to three digits.
    assert np.mean(hidden**2) == pytest.approx(1, rel=0.01)
    assert np.mean((np.maximum(hidden, 0) @ last) ** 2) == pytest.approx(1, rel=0.01)


@pytest.mark.slow
def test_init_gives_equal_weights_for_equal_seeds_in_place_too(initialized, command, folder):
    (folder / "two.keras").write_bytes((folder / "model.keras").read_bytes())
    command("init", "two.keras", "two.keras", "--data", "x.npy", "--seed", "5")
    pairs = zip(weights(folder / "one.keras"), weights(folder / "two.keras"), strict=True)
    for first, second in pairs:
        np.testing.assert_array_equal(first, second)
    assert temporary(folder) == []


@pytest.mark.slow
def test_init_reads_and_writes_h5(command, folder):
    command(*"init flawed.h5 mended.h5 --seed 1 --law uniform --mode fan_avg".split())
    assert all(one.any() for one in weights(folder / "mended.h5") if one.ndim > 1)


@pytest.mark.slow
def test_a_refused_init_leaves_the_old_file_and_no_other(refusal, folder):
    (folder / "kept.keras").write_bytes(b"old")
    said = refusal("init", "model.keras", "kept.keras", "--data", "narrow.npy")
    assert said.startswith("model.keras fails on --data narrow.npy. Keras says: ")
    assert "Arguments received" not in said
    assert "16" in said  # what the model takes
    assert (folder / "kept.keras").read_bytes() == b"old"
    assert temporary(folder) == []


@pytest.mark.slow
def test_a_file_that_cannot_be_saved_leaves_the_old_file_and_no_other(refusal, folder):
    (folder / "old.keras").write_bytes(b"old")
    said = refusal("init", "sealed.keras", "old.keras", "--import", "own_layers")
    assert said == "old.keras cannot be written. Keras says: it is sealed"
    assert (folder / "old.keras").read_bytes() == b"old"
    assert temporary(folder) == []


@pytest.mark.slow
def test_a_link_to_a_model_stays_a_link(command, folder):
    (folder / "target.keras").write_bytes((folder / "model.keras").read_bytes())
    (folder / "link.keras").symlink_to("target.keras")
    command("init", "link.keras", "link.keras", "--seed", "1")
    assert (folder / "link.keras").is_symlink()
    assert (folder / "target.keras").read_bytes() != (folder / "model.keras").read_bytes()


def test_a_terminal_that_lacks_signs_gets_others(folder):
    done = subprocess.run(
        [sys.executable, "-m", "keras_he", "gain", "relu"],
        cwd=folder,
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "errors of the signal ?1" in done.stdout


def test_an_out_in_no_folder_is_refused(refusal):
    said = refusal("init", "model.keras", "nowhere/out.keras")
    assert said == f"{Path('nowhere/out.keras')} cannot be written: there is no folder nowhere"


# names and gain


def test_names_lists_what_a_pattern_fits(command):
    listed = command("names", "he_prelu*").stdout.split()
    assert listed == [one for one in keras_he.names() if one.startswith("he_prelu")]
    assert "he_prelu_uniform" in listed


def test_names_without_a_pattern_prints_the_grammar(command):
    assert command("names").stdout == f"{keras_he.names()!r}\n"


def test_names_of_a_pattern_that_fits_nothing_are_refused(refusal):
    said = refusal("names", "he_rellu")
    assert said == (
        "`pattern` must be a shell pattern that matches at least one string. "
        "Received: pattern='he_rellu' Did you mean \"he_relu\"?"
    )


def test_gain_prints_the_number_and_what_it_does_over_depth(command):
    number, depth = command("gain", "leaky_relu", "--negative-slope", "0.5").stdout.splitlines()
    assert float(number) == pytest.approx((2 / 1.25) ** 0.5, rel=1e-8)  # sqrt(2 / (1 + a²))
    assert depth == "per layer: errors of the signal ×1, gradient ×1"


def test_gain_of_an_unknown_activation_is_refused(refusal):
    assert refusal("gain", "relux").endswith("activation='relux' Did you mean \"relu\"?")


WITHOUT_A_MODEL = {
    "--help": 0,
    "audit --help": 0,
    "": 2,
    "audit": 2,
    "gain gelu --mode fan": 2,
    "names he_prelu*": 0,
    "gain gelu": 0,
    "gain relux": 2,
    "audit sound.weights.h5": 2,
}


@pytest.mark.parametrize("arguments", WITHOUT_A_MODEL)
@pytest.mark.parametrize("start", ["script", "module"])
def test_what_needs_no_model_is_done_before_keras_is_imported(start, arguments, folder):
    """Here Keras cannot be imported at all."""
    starts = {
        "module": [sys.executable, "-m", "keras_he"],
        "script": [sys.executable, Path(sys.executable).with_name("keras-he")],
    }
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "keras.py").write_text("raise SystemExit('keras was imported')")
    done = subprocess.run(
        [*starts[start], *arguments.split()],
        cwd=folder,
        env={**environment(), "PYTHONPATH": f"{folder / 'broken'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "keras was imported" not in done.stderr
    code = WITHOUT_A_MODEL[arguments]
    assert done.returncode == code
    assert (done.stderr if code else done.stdout).strip()


@pytest.mark.slow
def test_a_module_of_the_users_finds_the_public_names(command, folder):
    """The command line puts them off until it has read its arguments."""
    code = "import keras_he\nkeras_he.register_kernels\nprint(keras_he.get('he_relu'))"
    (folder / "uses_keras_he.py").write_text(code, encoding="utf-8")
    said = command("audit", "model.keras", "--import", "uses_keras_he").stdout
    assert said.startswith("KaimingNormal()")


def test_a_reader_that_leaves_early_gets_no_traceback(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_he", "names"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()  # as `| head -0` does
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert "BrokenPipe" not in said


# portable


LOAD_WITHOUT = """
import sys
sys.modules["keras_he"] = None  # importing it fails
import keras
import numpy as np
model = keras.models.load_model(FILE)
np.save("outputs.npy", keras.ops.convert_to_numpy(model(np.load(DATA))))
np.savez("weights.npz", *[one.numpy() for one in model.weights])
again = keras.models.clone_model(model)
print([type(one.kernel_initializer).__name__ for one in again.layers])
"""


@pytest.fixture(scope="module")
def portable(command):
    return command("portable", "ours.keras", "portable.keras")


@pytest.mark.slow
def test_portable_tells_what_it_replaced(portable):
    first, second, last = portable.stdout.splitlines()
    assert re.fullmatch(r"dense\w*\.kernel_initializer = RandomUniform\(.*minval=-0\.433.*", first)
    assert re.fullmatch(r"dense\w*\.kernel_initializer = Orthogonal\(.*gain=1\.414.*", second)
    assert last == "2 initializers replaced."


@pytest.mark.slow
def test_a_portable_file_does_not_name_keras_he(portable, folder):
    named = {}
    for file in ("ours.keras", "portable.keras"):
        with zipfile.ZipFile(folder / file) as archive:
            named[file] = b"keras_he" in archive.read("config.json")
    assert named == {"ours.keras": True, "portable.keras": False}


@pytest.mark.slow
def test_a_portable_file_gives_the_same_outputs_without_keras_he(
    portable, folder, run_python, tmp_path
):
    files = f"FILE, DATA = {str(folder / 'portable.keras')!r}, {str(folder / 'x.npy')!r}"
    move = f"import os\nos.chdir({str(tmp_path)!r})"
    said = run_python(files, move, LOAD_WITHOUT).splitlines()[-1]
    assert said == "['RandomUniform', 'Orthogonal', 'GlorotUniform']"
    model = keras.models.load_model(folder / "ours.keras", compile=False)
    with np.load(tmp_path / "weights.npz") as file:
        for first, second in zip(model.weights, file.values(), strict=True):
            np.testing.assert_array_equal(first.numpy(), second)
    outputs = keras.ops.convert_to_numpy(model(np.load(folder / "x.npy")))
    # The same sums of the same numbers; only their order may differ between two processes.
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), outputs, rtol=1e-5, atol=1e-6)


# Files that are refused

REFUSED = {
    "a missing file": ("audit missing.keras", "missing.keras does not exist"),
    "an array": ("audit x.npy", "x.npy is a NumPy array. .* the array after `--data`"),
    "noise": ("audit noise.keras", "noise.keras is not a zip archive: it is damaged"),
    "noise in h5": ("audit noise.h5", "noise.h5 is not an HDF5 file: it is damaged"),
    "text": ("audit notes.txt", "notes.txt must be a .keras or .h5 file"),
    "a zip cut short": ("init cut.keras out.keras", "cut.keras is a damaged zip archive"),
    "an h5 cut short": ("portable cut.h5 out.keras", "cut.h5 is a damaged HDF5 file"),
    "weights": ("audit sound.weights.h5", "sound.weights.h5 holds weights only, .*load this"),
    "weights in h5": ("init legacy.h5 out.keras", "legacy.h5 holds weights only"),
    "a SavedModel": ("audit exported", "exported is a SavedModel folder: .*keras or .h5 file of"),
    "a served SavedModel": ("audit served", "served is a SavedModel folder"),
    "a folder": ("audit nothing", "nothing is a folder. Give a .keras or .h5 file"),
    "checkpoints": ("audit checkpoints", "checkpoints is a folder of TensorFlow checkpoints"),
    "a preset": ("audit preset", "preset is the folder of a KerasHub preset"),
    "a config": ("audit model.json", "model.json holds a config of a model"),
    "ONNX": ("audit model.onnx", "model.onnx is an ONNX model"),
    "LiteRT": ("audit model.tflite", "model.tflite is a LiteRT model"),
    "PyTorch's": ("audit model.pt", "model.pt is a PyTorch file"),
    "arrays": ("audit arrays.npz", "arrays.npz holds NumPy arrays"),
    "a zip of anything": ("audit other.zip", "other.zip is a zip archive without a model's config"),
    "an archive named h5": ("audit archive.h5", "archive.h5 holds .*: rename it to archive.keras"),
    "metadata of another form": ("audit metadata.keras", "metadata.keras cannot be loaded"),
    "an unknown compression": ("audit squeezed.keras", "squeezed.keras "),
    "a report in place of the model": (
        "audit model.keras --json model.keras",
        "model.keras is the name of a model file: choose another name for the report",
    ),
    "a page in place of a model": ("audit model.keras --html page.h5", "page.h5 is the name of a"),
    "an h5 named keras": ("audit hdf.keras", "hdf.keras holds .*: rename it to hdf.h5"),
    "a lambda": ("audit lambda.keras", "lambda.keras holds a Lambda layer, .* safe_mode=False"),
    "a newer Keras": (
        "audit newer.keras",
        rf"newer.keras was written by Keras 99.0.0, and Keras {keras.__version__} .*Upgrade",
    ),
    "an unknown layer": (
        "audit own.keras",
        "own.keras holds classes that are not registered.*--import MOD",
    ),
    "a module that is not there": (
        "audit own.keras --import nothing_here",
        "--import nothing_here: No module named 'nothing_here'",
    ),
    "missing data": ("audit model.keras --data none.npy", "--data none.npy: .*No such file"),
    "data of pickles": (
        "audit model.keras --data pickle.npy",
        "--data pickle.npy: Object arrays cannot be loaded when allow_pickle=False",
    ),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(refusal, kind):
    arguments, expected = REFUSED[kind]
    assert re.match(expected, refusal(*arguments.split()))


if not FULLY:
    for _name, _test in list(globals().items()):
        if _name.startswith("test_") and not _name.startswith(EVERYWHERE):
            globals()[_name] = pytest.mark.skip("run on the newest Keras and TensorFlow")(_test)
