"""The rules of the package's shape: one way for imports, no backend of its own, cheap to import."""

import ast
import re
import sys
from pathlib import Path

import pytest

import keras_he
from keras_he import errors

PACKAGE = Path(keras_he.__file__).parent

# Which folder may import which: the one statement of it, which ARCHITECTURE.md repeats. What is not
# in a folder stands alone under its own name.
ABOVE_SAMPLING = ["errors", "notes", "theory"]
ABOVE_BACKEND = [*ABOVE_SAMPLING, "sampling"]
ABOVE_LAYERS = [*ABOVE_BACKEND, "backend"]
ABOVE_PASSES = [*ABOVE_LAYERS, "initializers", "layers"]
ABOVE_MODELS = [*ABOVE_PASSES, "passes", "reports"]
MAY_IMPORT = {
    "errors": [],
    "notes": [],
    "theory": ["errors"],
    "reports": ["errors", "notes"],
    "sampling": ABOVE_SAMPLING,
    "backend": ABOVE_BACKEND,
    "initializers": ABOVE_LAYERS,
    "layers": ABOVE_LAYERS,
    "passes": ABOVE_PASSES,
    "initialize_model": ABOVE_MODELS,
    "audit_model": ABOVE_MODELS,
    "portable": ABOVE_MODELS,
    "startup": [],
    "model_files": [*ABOVE_MODELS],
    "callback": [*ABOVE_MODELS, "initialize_model", "audit_model"],
    "cli": [*ABOVE_MODELS, "initialize_model", "audit_model", "portable", "startup", "model_files"],
}
EVERYTHING = [*MAY_IMPORT]
MAY_IMPORT |= {"__init__": EVERYTHING, "__main__": EVERYTHING}
WITHOUT_KERAS = ("errors", "notes", "theory", "sampling", "reports")
BACKENDS = {"tensorflow", "jax", "torch"}
OF_FRAMEWORKS = {f"backend.{name}" for name in BACKENDS}

SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = list(SOURCES)


def room(module):
    """Returns the folder of a module, or its own name if it is in none."""
    return module.partition(".")[0]


def imported(source):
    """Returns (name, whether at module level) of everything that a source imports."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            yield name, node in tree.body


def own_imports(sources):
    """Returns the modules of the package that each of its modules imports."""
    arrows = {}
    for module, source in sources.items():
        found = set()
        for name, _ in imported(source):
            parts = name.split(".")
            if parts[0] == "keras_he":
                inside = [".".join(parts[1:end]) for end in (len(parts), len(parts) - 1)]
                found |= {next((one for one in inside if one in sources), "__init__")}
        arrows[module] = found
    return arrows


def upward(sources):
    """Returns the imports that the table does not allow."""
    return [
        f"{module} imports {other}"
        for module, others in own_imports(sources).items()
        for other in sorted(others)
        if room(other) != room(module) and room(other) not in MAY_IMPORT[room(module)]
    ]


def circles(sources):
    """Returns the modules that are left when all that import nothing more are taken away."""
    left = own_imports(sources)
    while free := [module for module, others in left.items() if not others & left.keys()]:
        left = {module: others for module, others in left.items() if module not in free}
    return sorted(left)


def test_every_module_is_in_a_folder_of_the_table():
    assert {room(module) for module in MODULES} == set(MAY_IMPORT)


def test_no_import_runs_up_and_none_in_a_circle():
    assert upward(SOURCES) == []
    assert circles(SOURCES) == []


def test_an_upward_import_and_circles_would_be_seen():
    planted = {**SOURCES, "theory.closed_forms": "from keras_he.passes import forward"}
    assert upward(planted) == ["theory.closed_forms imports passes.forward"]
    inside = {**SOURCES, "sampling.laws": "from keras_he.sampling.regions import limits"}
    assert upward(inside) == []
    assert {"sampling.laws", "sampling.regions"} <= set(circles(inside))
    beside = {**SOURCES, "layers.rules": "from keras_he.initializers.kaiming import Kaiming"}
    assert upward(beside) == ["layers.rules imports initializers.kaiming"]


FOLDERS = sorted({room(module) for module in MODULES if "." in module})


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_says_what_it_decides_and_where_to_start_and_nothing_else(folder):
    tree = ast.parse(SOURCES[f"{folder}.__init__"])
    told = ast.get_docstring(tree)
    assert len(tree.body) == 1
    for part in ("Decides: ", "Must never know: ", "Start reading: "):
        assert part in told
    named = re.findall(r"`(\w+)`", told.partition("Start reading: ")[2])
    assert named
    assert {f"{folder}.{name}" for name in named} <= set(MODULES)


@pytest.mark.parametrize("module", [one for one in MODULES if room(one) in WITHOUT_KERAS])
def test_the_mathematics_and_the_reports_know_no_framework(module):
    roots = {name.split(".")[0] for name, at_import in imported(SOURCES[module]) if at_import}
    extra = {"rich"} if room(module) == "reports" else set()
    assert roots <= {"keras_he", "numpy", *extra, *sys.stdlib_module_names}
    assert "keras" not in {name.split(".")[0] for name, _ in imported(SOURCES[module])}


PRIVATE = "backend.keras_private"


def private_uses(source):
    """Yields the private attributes that code reads and does not define, and calls of `vars`."""
    nodes = list(ast.walk(ast.parse(source)))
    own = {"_replace", "_fields"} | {
        node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    for node in nodes:
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not (of_self or node.attr in own):
                yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id == "vars":
            yield "vars"


@pytest.mark.parametrize("module", [one for one in MODULES if one != PRIVATE])
def test_what_keras_does_not_promise_is_used_in_one_module_alone(module):
    source = SOURCES[module]
    assert "keras.src" not in source
    assert '"keras."' not in source  # the beginning of the names of Keras' modules
    assert list(private_uses(source)) == []


def test_a_use_of_what_is_private_would_be_seen():
    assert len(set(private_uses(SOURCES[PRIVATE]))) >= 3


@pytest.mark.parametrize("module", MODULES)
def test_a_framework_is_imported_by_its_own_module_alone(module):
    """That module is imported where Keras runs on the framework, and nowhere else."""
    named = {name.split(".")[0] for name, _ in imported(SOURCES[module])} & BACKENDS
    assert named == ({module.partition(".")[2]} if module in OF_FRAMEWORKS else set())
    assert own_imports(SOURCES)[module] & OF_FRAMEWORKS == set()


def test_the_generator_is_made_in_the_sampler_alone():
    """`random_sources` sets generators of the process and of layers, and draws nothing."""
    named = [module for module in MODULES if "np.random" in SOURCES[module]]
    assert named == ["backend.random_sources", "sampling.stream"]


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_short(module):
    assert len(SOURCES[module].splitlines()) <= 400


def test_the_table_of_the_document_is_the_one_that_is_tested():
    document = PACKAGE.parent / "ARCHITECTURE.md"
    if not document.exists():  # the wheel is tested without it
        pytest.skip("ARCHITECTURE.md is not here")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", document.read_text("utf-8"), re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows if name in MAY_IMPORT}
    expected = {name: set(allowed) for name, allowed in MAY_IMPORT.items() if name in told}
    assert told == expected
    assert set(told) == set(MAY_IMPORT) - {"__init__", "__main__", "errors", "notes"}


def test_all_is_what_the_package_promises():
    assert keras_he.__all__ == sorted(keras_he.__all__)
    for name in keras_he.__all__:
        assert getattr(keras_he, name).__doc__


def test_tab_completion_shows_public_names_alone():
    assert dir(keras_he) == sorted([*keras_he.__all__, "__version__", "errors"])
    raised = {name for name, one in vars(errors).items() if isinstance(one, type)}
    assert dir(errors) == sorted(
        name for name in raised if issubclass(vars(errors)[name], Exception)
    )
    for name in dir(errors):
        assert issubclass(getattr(errors, name), keras_he.KerasHeError)


def test_modules_that_are_not_listed_can_be_imported():
    from keras_he.theory import activations

    assert keras_he.theory.activations is activations


def test_import_brings_no_backend_no_plots_no_scipy(run_python):
    code = """
import sys, keras
before = set(sys.modules)
import keras_he
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    brought = set(run_python(code).split()) - {"keras_he"}
    assert brought <= set(sys.stdlib_module_names)
