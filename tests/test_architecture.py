"""The rules of the package's shape: one way for imports, no backend of its own, cheap to import."""

import ast
import sys
from pathlib import Path

import pytest

import keras_he

PACKAGE = Path(keras_he.__file__).parent

# Modules by stage (ARCHITECTURE.md); a module imports from earlier stages, or from its own row's
# earlier modules.
STAGES = [
    ["errors", "foreign"],
    ["quadrature", "closed_forms", "activations", "geometry"],
    ["variance", "strings"],
    ["laws", "sampling", "regions", "orthogonal"],
    ["keras_private", "tensors", "sharding", "keras_activations", "initializers", "layers"],
    ["registry", "loading"],
    ["subject", "statistics", "structure", "selection", "inputs", "probe", "steps", "provenance"],
    ["in_front", "faults", "entries", "losses", "backward", "measure", "look", "plan", "observe"],
    ["apply"],
    ["rows", "table", "comparison", "picture", "page", "report"],
    ["claims", "kernels", "verdicts", "causes", "symptoms"],
    ["startup", "model", "examine", "logger", "portable", "model_files", "command"],
    ["__init__", "__main__"],
]
ORDER = [module for stage in STAGES for module in stage]
WITHOUT_KERAS = [module for stage in STAGES[:4] for module in stage]
BACKENDS = {"tensorflow", "jax", "torch"}


def imported(module):
    """Returns (name, whether at module level) of everything that a module imports."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            if node.module == "keras_he":
                names = [f"keras_he.{alias.name}" for alias in node.names]
        for name in names:
            yield name, node in tree.body


def test_every_module_has_a_stage():
    assert sorted(path.stem for path in PACKAGE.glob("*.py")) == sorted(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_modules_import_from_earlier_stages_only(module):
    own = {name.split(".")[1] for name, _ in imported(module) if name.startswith("keras_he.")}
    assert own <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize("module", WITHOUT_KERAS)
def test_the_mathematics_knows_no_framework(module):
    roots = {name.split(".")[0] for name, _ in imported(module)}
    assert roots <= {"keras_he", "numpy", *sys.stdlib_module_names}


@pytest.mark.parametrize("module", ORDER)
def test_only_public_keras_is_imported_and_backends_only_when_used(module):
    for name, at_import in imported(module):
        assert not name.startswith("keras.src")
        assert not (at_import and name.split(".")[0] in BACKENDS)
    assert "keras.src" not in (PACKAGE / f"{module}.py").read_text(encoding="utf-8")


def test_the_generator_is_made_in_the_sampler_alone():
    users = [
        module
        for module in ORDER
        if "np.random" in (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    ]
    assert users == ["sampling"]


@pytest.mark.parametrize("module", ORDER)
def test_modules_stay_short(module):
    assert len((PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines()) <= 400


def test_all_is_what_the_package_promises():
    assert keras_he.__all__ == sorted(keras_he.__all__)
    for name in keras_he.__all__:
        assert getattr(keras_he, name).__doc__


def test_import_brings_no_backend_no_plots_no_scipy(run_python):
    code = """
import sys, keras
before = set(sys.modules)
import keras_he
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    brought = set(run_python(code).split()) - {"keras_he"}
    assert brought <= set(sys.stdlib_module_names)
