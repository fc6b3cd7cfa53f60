"""`import keras_he` where Keras, or its backend, is missing or too old: one sentence that helps.

A process sees a folder of links to the installed packages, without those that are to be missing.
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import keras_he

ROOT = Path(keras_he.__file__).parents[1]
BACKENDS = ("tensorflow", "jax", "torch")
INSTALLED = [name for name in BACKENDS if importlib.util.find_spec(name)]

IMPORT = """
try:
    import keras_he
except ImportError as error:
    print(error)
    print(error.name)
    print(error.__suppress_context__)
"""


@pytest.fixture
def run_without(tmp_path):
    """Returns a function that runs code where some packages are missing."""

    def run(missing, *arguments, stubs=(), **environment):
        folder = tmp_path / "packages"
        folder.mkdir()
        for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            for one in Path(place).iterdir():
                root = one.name.partition(".")[0].partition("-")[0]
                if root not in missing and one.suffix != ".pth":
                    (folder / one.name).symlink_to(one)
        for name, text in stubs:
            (folder / name).write_text(text, encoding="utf-8")
        paths = [str(folder)] if (folder / "keras_he").exists() else [str(folder), str(ROOT)]
        kept = {name: one for name, one in os.environ.items() if name != "KERAS_BACKEND"}
        given = {"PYTHONPATH": os.pathsep.join(paths), "HOME": str(tmp_path), **environment}
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            cwd=tmp_path,
            env={**kept, **given},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def sentence(done):
    """Returns the sentence, its error's name, and whether a longer story is left out."""
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-3:]


@pytest.mark.parametrize("missing", BACKENDS)
def test_a_missing_backend_is_named_with_the_one_to_choose(missing, run_without):
    others = [name for name in INSTALLED if name != missing]
    given = {} if missing == "tensorflow" else {"KERAS_BACKEND": missing}
    said, name, alone = sentence(run_without({missing}, "-c", IMPORT, **given))
    assert (name, alone) == (missing, "True")
    assert said.startswith("Keras needs a backend, and ")
    assert ("its default" in said) is (missing == "tensorflow")
    assert (f"KERAS_BACKEND={missing}" in said) is (missing != "tensorflow")
    if others:
        assert f"KERAS_BACKEND={others[0]}" in said
        assert f'os.environ["KERAS_BACKEND"] = "{others[0]}"' in said
    else:
        assert "`python -m pip install tensorflow`" in said


def test_without_any_backend_it_is_said_what_to_install(run_without):
    said, *_ = sentence(run_without(set(BACKENDS), "-c", IMPORT))
    assert "TensorFlow (its default" in said
    assert "no other backend is. Install one: `python -m pip install tensorflow`" in said
    assert "KERAS_BACKEND" in said


@pytest.mark.skipif(len(INSTALLED) < 2, reason="needs two backends")
def test_a_notebook_may_choose_another_backend_and_import_again(run_without):
    missing, other = INSTALLED[0], INSTALLED[1]
    code = f"""{IMPORT}
import os
os.environ["KERAS_BACKEND"] = "{other}"
import keras_he, keras
print(keras.backend.backend(), keras_he.get("he_prelu"))
"""
    done = run_without({missing}, "-c", code, KERAS_BACKEND=missing)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith(f"{other} KaimingNormal(")


def test_the_command_line_says_it_in_one_line(run_without, tmp_path):
    (tmp_path / "model.keras").write_bytes(EMPTY_MODEL)
    done = run_without(set(BACKENDS), "-m", "keras_he", "audit", "model.keras")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("keras-he: Keras needs a backend, and TensorFlow")


def test_the_command_line_needs_no_backend_for_help_names_and_gains(run_without):
    done = run_without({*BACKENDS, "keras"}, "-m", "keras_he", "gain", "relu")
    assert done.returncode == 0
    assert done.stdout.startswith("1.41421356")


@pytest.mark.parametrize(
    ("name", "near"), [("JAX", ' Did you mean "jax"?'), ("mxnet", "")], ids=["case", "other"]
)
def test_an_unknown_backend_is_named_with_those_there_are(name, near, run_without, tmp_path):
    done = run_without(set(), "-c", IMPORT, KERAS_BACKEND=name)
    said = done.stdout.splitlines()[0]
    assert said.startswith("Keras' backend must be tensorflow, jax or torch. Received, from ")
    assert said.endswith(f"{name}.{near}")


@pytest.mark.skipif("jax" in INSTALLED, reason="Keras' NumPy backend has what it needs")
def test_what_another_backend_of_keras_needs_is_named(run_without):
    said, *_ = sentence(run_without(set(), "-c", IMPORT, KERAS_BACKEND="numpy"))
    assert said == "Keras' numpy backend needs jax, which is not installed."


def test_an_empty_folder_is_no_backend(run_without, tmp_path):
    (tmp_path / "tensorflow").mkdir()  # the folder that the process starts in
    said, *_ = sentence(run_without(set(BACKENDS), "-c", IMPORT, KERAS_BACKEND="jax"))
    assert "Installed:" not in said


def test_a_script_that_is_named_like_the_command_finds_the_public_names(run_without, tmp_path):
    (tmp_path / "keras-he").write_text("import keras_he\nprint(keras_he.get('he_relu'))\n")
    done = run_without(set(), "keras-he", KERAS_BACKEND=INSTALLED[0])
    assert done.stdout.splitlines()[-1] == "KaimingNormal()", done.stderr[-2000:]


def test_without_keras_it_is_said_what_to_install(run_without):
    said, name, alone = sentence(run_without({"keras"}, "-c", IMPORT))
    assert said == "keras_he needs Keras 3. Install it with: python -m pip install --upgrade keras"
    assert (name, alone) == ("keras", "True")


@pytest.mark.parametrize("version", ["2.15.0", "3.3.3", "3.11.3", "1.0"])
def test_an_old_keras_is_named_with_what_to_install(version, run_without):
    stub = [("keras.py", f"__version__ = {version!r}\n")]
    said, name, _ = sentence(run_without({"keras"}, "-c", IMPORT, stubs=stub))
    assert said == (
        f"keras_he needs Keras 3.12 or newer. Keras {version} is installed. "
        "Install it with: python -m pip install --upgrade keras"
    )
    assert name == "keras"


def test_another_missing_package_of_a_backend_is_not_hidden(run_without):
    stub = [("keras.py", "import something_else_entirely\n")]
    done = run_without({"keras"}, "-c", "import keras_he", stubs=stub)
    assert "No module named 'something_else_entirely'" in done.stderr


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_legacy_keras_is_refused_in_one_line(value, run_python):
    code = "try:\n    import keras_he\nexcept ImportError as error:\n    print(error)"
    printed = run_python(code, TF_USE_LEGACY_KERAS=value)
    assert printed.count("\n") == 1
    assert "TF_USE_LEGACY_KERAS makes tf.keras Keras 2. Unset it." in printed


@pytest.mark.parametrize(
    ("called", "is_command"),
    [
        (["-m", ["-m", "keras_he", "names"]], True),
        (["-m", ["-X", "dev", "-m", "keras_he"]], True),
        (["-m", ["-mkeras_he"]], True),
        (["-m", ["-um", "keras_he", "gain", "relu"]], True),
        (["-m", ["-Wignore", "-Bum", "keras_he"]], True),
        (["-m", ["-W", "ignore", "-Xdev", "-m", "keras_he"]], True),
        (["-m", ["--check-hash-based-pycs", "default", "-m", "keras_he"]], True),
        (["-m", ["-m", "other", "-m", "keras_he"]], False),
        (["-m", ["-m", "keras_he.registry"]], False),
        (["-m", ["-c", "-m", "keras_he"]], False),
        ([None, []], False),
        (["-m", ["-m", "my_package.train"]], False),
        (["/somewhere/bin/keras-he", ["/somewhere/bin/keras-he"]], True),
        ([r"keras-he.exe", []], True),
        (["train.py", ["train.py"]], False),
        (["", []], False),
    ],
    ids=str,
)
def test_keras_is_put_off_in_the_command_line_alone(called, is_command, monkeypatch):
    from keras_he import startup

    monkeypatch.setattr(sys, "argv", [called[0]])
    monkeypatch.setattr(sys, "orig_argv", ["python", *called[1]])
    assert startup._runs_as_command() is is_command


def test_a_process_without_arguments_is_no_command_line(monkeypatch):
    from keras_he import startup

    monkeypatch.setattr(sys, "argv", [])
    assert startup._runs_as_command() is False
    monkeypatch.delattr(sys, "argv")  # an interpreter that another program embeds
    assert startup._runs_as_command() is False


def _empty_model():
    import io
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{}")
    return file.getvalue()


EMPTY_MODEL = _empty_model()
