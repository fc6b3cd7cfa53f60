"""What Keras, and packages that build on it, find in its tables; and `get` and `register`."""

import copy
import inspect
import json
import pickle
import warnings

import keras
import numpy as np
import pytest

import keras_he
from keras_he.backend import keras_private
from keras_he.initializers import registry

NAMES = keras_he.names()
CLASSES = ("KaimingNormal", "KaimingOrthogonal", "KaimingTruncatedNormal", "KaimingUniform")
REGISTERED = tuple(f"keras_he>{name}" for name in CLASSES)
SOME = ("he_prelu", "he_gelu_uniform_fan_out", "he_relu_orthogonal_depthwise", "kaiming_uniform")


def table():
    return keras.saving.get_custom_objects()


@pytest.fixture
def tables():
    """Puts Keras' tables back as they were before a test."""
    built_in = keras_private.built_in_initializers()
    kept = [(one, dict(one)) for one in (table(), built_in) if one is not None]
    yield
    for one, before in kept:
        one.clear()
        one.update(before)


# What stands in the table behaves as a class


def test_every_value_is_a_hashable_class_of_initializers():
    values = [table()[name] for name in (*NAMES, *REGISTERED)]
    assert all(inspect.isclass(one) for one in values)
    assert all(issubclass(one, keras.initializers.VarianceScaling) for one in values)
    # Two names for the class itself: kaiming_normal, its own name, and the registered one.
    assert len(set(values)) == len({id(one) for one in values}) == len(NAMES) - 2
    assert all(one in values and one == copy.deepcopy(one) for one in values)


@pytest.mark.parametrize("name", SOME)
def test_value_has_a_name_a_document_and_a_signature(name):
    found = table()[name]
    assert found.__doc__
    assert inspect.signature(found) is not None
    assert found.__module__.startswith("keras_he")
    if name.startswith("he_"):
        assert found.__name__ == found.__qualname__ == name
        assert name in repr(found)
        assert keras.saving.get_registered_name(found) == name


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_value_is_copied_and_pickled_as_a_class_is(name, again):
    assert again(table()[name]) is table()[name]
    assert again(dict(table()))[name] is table()[name]


def test_a_pickled_class_is_found_in_a_fresh_process(run_python, tmp_path):
    (tmp_path / "table.pickle").write_bytes(pickle.dumps([table()[name] for name in SOME]))
    code = f"""
import pickle
with open({str(tmp_path / "table.pickle")!r}, "rb") as file:
    print([str(one()) for one in pickle.load(file)])
"""
    assert run_python(code).splitlines()[-1] == str([str(keras_he.get(name)) for name in SOME])


def test_a_class_that_is_no_string_is_not_found_in_the_module():
    with pytest.raises(AttributeError, match="he_reul"):
        registry.he_reul  # noqa: B018


@pytest.mark.parametrize("name", SOME)
def test_calling_a_value_returns_the_initializer(name):
    made = table()[name](seed=3)
    assert type(made).__name__ in CLASSES
    assert made.get_config() == {**keras_he.get(name).get_config(), "seed": 3}


@pytest.mark.parametrize("argument", ["activation", "gain", "negative_slope"])
def test_calling_a_value_may_not_contradict_it(argument):
    with pytest.raises(keras_he.KerasHeError, match=f"`{argument}` must be left out beside a"):
        table()["he_prelu"](**{argument: 1.0})


@pytest.mark.parametrize("name", SOME)
def test_from_config_takes_the_config_of_what_the_value_makes(name):
    made = table()[name](seed=3)
    assert table()[name].from_config(made.get_config()).get_config() == made.get_config()


def test_errors_about_arguments_name_the_string():
    with pytest.raises(TypeError, match="^he_prelu\\(\\) "):
        table()["he_prelu"]("relu")


def test_calling_a_value_with_a_shape_is_an_error_as_of_keras_own():
    with pytest.raises(TypeError):
        table()["he_prelu"]((8, 6), "float32")


@pytest.mark.parametrize("config", [None, 3, "he_relu", [1]], ids=repr)
def test_from_config_of_no_config_is_an_error_of_ours(config):
    with pytest.raises(keras_he.KerasHeError, match="`config` must be a dict"):
        table()["he_prelu"].from_config(config)


class HoldsWhatWasDeserialized(keras.layers.Layer):
    """Keeps what `deserialize` returns, as some layers of users do."""

    def __init__(self, name_of_initializer="he_prelu", **others):
        super().__init__(**others)
        self.kernel_initializer = keras.initializers.get(
            keras.initializers.deserialize(name_of_initializer)
        )

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], 3), initializer=self.kernel_initializer)

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.Dense(
            3, kernel_initializer=keras.initializers.deserialize("he_prelu")
        ),
        HoldsWhatWasDeserialized,
    ],
    ids=["keras", "users"],
)
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_layer_that_was_given_the_class_builds_saves_and_loads(make, ending, tmp_path):
    model = keras.Sequential([keras.Input((4,)), make()])
    assert model.layers[0].kernel_initializer.get_config()["activation"] == "prelu"
    model.save(tmp_path / f"model{ending}")
    custom = {"HoldsWhatWasDeserialized": HoldsWhatWasDeserialized}
    again = keras.models.load_model(tmp_path / f"model{ending}", custom_objects=custom)
    np.testing.assert_array_equal(model.get_weights()[0], again.get_weights()[0])


def test_what_others_do_with_the_table_they_can_still_do():
    """Sorting, hashing, comparing and printing all values, as packages around Keras do."""
    values = table().values()
    assert len(set(values)) <= len(values)
    assert {value: name for name, value in table().items()}
    assert sorted(table(), key=str)
    assert all(isinstance(repr(one), str) for one in values)
    assert not [one for one in (table()[n] for n in NAMES) if issubclass(one, keras.layers.Layer)]


def test_importing_keras_he_changes_nothing_that_is_not_ours(run_python):
    """Every table of Keras that names things, before and after."""
    code = """
import inspect, json, keras
from keras.src import activations, constraints, initializers, losses, metrics, optimizers
from keras.src import regularizers
modules = (activations, constraints, initializers, losses, metrics, optimizers, regularizers)

@keras.saving.register_keras_serializable("mine")
class Mine(keras.layers.Layer):
    pass

def state():
    tables = {"custom": keras.saving.get_custom_objects()}
    for module in modules:
        for name, value in vars(module).items():
            if name.startswith("ALL_OBJECTS"):
                tables[f"{module.__name__}.{name}"] = value
    held = {}
    for name, value in tables.items():
        keys = list(value) if isinstance(value, dict) else [one.__name__ for one in value]
        held[name] = [str(key) for key in keys]
        hash(frozenset(value.values() if isinstance(value, dict) else value))
    public = {name: sorted(dir(getattr(keras, name))) for name in dir(keras)}
    return held, public

before, public = state()
import keras_he
after, public_after = state()
assert public == public_after
changed = {}
for name in before:
    assert after[name][: len(before[name])] == before[name], name
    changed[name] = after[name][len(before[name]):]
print(json.dumps({name: added for name, added in changed.items() if added}))
"""
    added = json.loads(run_python(code).splitlines()[-1])
    assert sorted(added.pop("custom")) == sorted((*NAMES, *REGISTERED))
    # A Keras that looks strings up in a table of its own gets them there, and nowhere else.
    assert set(added) <= {"keras.src.initializers.ALL_OBJECTS_DICT"}
    assert all(sorted(one) == sorted(NAMES) for one in added.values())


# get


@pytest.mark.parametrize("name", NAMES)
def test_get_returns_what_the_string_means(name):
    found, expected = keras_he.get(name), keras.initializers.get(name)
    assert type(found) is type(expected)
    assert found.get_config() == expected.get_config()


@pytest.mark.parametrize("name", REGISTERED)
def test_get_takes_registered_names(name):
    assert type(keras_he.get(name)).__name__ == name.removeprefix("keras_he>")


@pytest.mark.parametrize("name", SOME)
def test_get_takes_what_serialize_writes(name):
    initializer = keras_he.get({"class_name": name, "config": {"seed": 4}})
    written = keras.initializers.serialize(initializer)
    assert keras_he.get(written).get_config() == initializer.get_config()
    assert initializer.get_config()["seed"] == 4
    assert keras_he.get({"class_name": name}).get_config() == keras_he.get(name).get_config()


def test_get_takes_the_config_of_a_seed_generator():
    initializer = keras_he.KaimingNormal(seed=keras.random.SeedGenerator(3))
    config = keras.initializers.serialize(initializer)
    assert keras_he.get(json.loads(json.dumps(config))).seed.get_config()["seed"] == 3


def test_get_returns_an_initializer_as_it_is_and_makes_one_of_a_class():
    ours = keras_he.KaimingUniform("gelu", seed=1)
    assert keras_he.get(ours) is ours
    assert keras_he.get(keras_he.KaimingUniform).get_config() == {}
    assert keras_he.get(table()["he_tanh"]).activation == "tanh"


@pytest.mark.parametrize(
    ("identifier", "match"),
    [
        ("he_preul", 'Did you mean "he_prelu"'),
        ("HE_PRELU", 'Did you mean "he_prelu"'),
        ("keras_he>KaimingNorml", 'Did you mean "kaiming_normal"'),
        ("keras_he>he_prelu", "`keras_he.names\\(\\)`"),
        ("keras_he>", "`keras_he.names\\(\\)`"),
        ("", "`keras_he.names\\(\\)`"),
        ("he_normal", 'Keras\' own: `keras.initializers.get\\("he_normal"\\)`'),
        ("GlorotUniform", "Keras' own"),
        (keras.initializers.HeNormal(), "not of keras_he"),
        (keras.initializers.HeNormal, "must be a string"),
        (None, "must be a string"),
        (3, "must be a string"),
        (["he_prelu"], "must be a string"),
        ({}, "Received: identifier={}"),
        ("get", "`keras_he.names\\(\\)`"),
        ("Initializer", "`keras_he.names\\(\\)`"),
        ("he_prelu_fan_out_uniform", 'Did you mean "he_prelu_uniform_fan_out"'),
        ({"module": "mine", "class_name": "KaimingNormal", "config": {}}, "must be a string"),
        ({"class_name": "HeNormal", "config": {}}, "Keras' own"),
        ({"class_name": ["he_relu"], "config": {}}, "must be a string"),
        ({"class_name": "he_relu", "config": {"scale": 2}}, "`config` must be"),
        ({"class_name": "he_relu", "config": None}, "`config` must be"),
        ({"class_name": "he_relu", "config": {"mode": "fan"}}, "`mode` must be"),
    ],
    ids=lambda value: repr(value).partition(" object at")[0],
)
def test_get_refuses_everything_else(identifier, match):
    with pytest.raises(keras_he.KerasHeError, match=match) as raised:
        keras_he.get(identifier)
    assert isinstance(raised.value, ValueError)


@pytest.mark.usefixtures("tables")
def test_get_needs_no_table():
    table().clear()
    built_in = keras_private.built_in_initializers()
    if built_in is not None:
        for name in set(built_in) & set(NAMES):
            del built_in[name]
    with pytest.raises(ValueError, match="he_prelu"):
        keras.initializers.get("he_prelu")
    for name in SOME:
        assert keras_he.get(name).get_config() == keras_he.get({"class_name": name}).get_config()


# register


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("times", [1, 2])
def test_register_brings_back_what_a_cleared_table_lost(times, tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), *(keras.layers.Dense(4, kernel_initializer=one) for one in SOME[:2])]
    )
    for ending in (".keras", ".h5"):
        model.save(tmp_path / f"model{ending}")
    before = {name: one for name, one in table().items() if name in (*NAMES, *REGISTERED)}
    table().clear()
    with pytest.raises((TypeError, ValueError)):
        keras.models.load_model(tmp_path / "model.keras")
    for _ in range(times):
        keras_he.register()
    assert dict(table()) == before
    assert keras.layers.Dense(3, kernel_initializer="he_prelu").kernel_initializer.activation
    for ending in (".keras", ".h5"):
        again = keras.models.load_model(tmp_path / f"model{ending}")
        for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        assert again.to_json() == model.to_json()


def test_register_repeated_changes_nothing():
    before = dict(table())
    keras_he.register()
    assert dict(table()) == before
    assert list(table()) == list(before)


@pytest.mark.usefixtures("tables")
def test_a_name_of_somebody_else_is_left_to_them_with_a_warning():
    table()["he_prelu"] = theirs = lambda shape, dtype=None: keras.ops.ones(shape, dtype)
    with pytest.warns(UserWarning, match=r'registered 1 of .* "he_prelu"\. `keras_he.get\('):
        keras_he.register()
    assert table()["he_prelu"] is theirs
    assert keras_he.get("he_prelu").activation == "prelu"


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("name", ["KaimingNormal", "he_relu"])
def test_a_name_that_is_taken_says_nothing_of_the_others(name):
    """Nothing is told of strings that resolve, and nothing is put into a private table."""
    table()[name] = SomebodyElses
    built_in = dict(keras_private.built_in_initializers() or {})
    with pytest.warns(UserWarning, match=f'registered 1 of .*"{name}"') as told:
        keras_he.register()
    assert len(told) == 1
    assert (keras_private.built_in_initializers() or {}) == built_in
    with keras.saving.custom_object_scope({"KaimingUniform": SomebodyElses}):
        with pytest.warns(UserWarning, match=f'registered 1 of .*"{name}"') as told:
            keras_he.register()
        assert len(told) == 1
    assert keras.initializers.get("he_prelu").activation == "prelu"


class SomebodyElses(keras.initializers.Initializer):
    """Is registered under a name of ours."""


@pytest.mark.usefixtures("tables")
def test_names_of_an_earlier_import_are_renewed():
    stale = type("he_prelu", (keras_he.KaimingNormal,), {"__module__": "keras_he.registry"})
    table()["he_prelu"] = stale
    keras_he.register()
    assert table()["he_prelu"] is registry.he_prelu


def strict_get(identifier):
    """Is `keras.initializers.get` of a Keras that knows its own strings only."""
    found = keras.initializers.HeNormal if identifier == "he_normal" else None
    if found is None:
        raise ValueError(f"Could not interpret initializer identifier: {identifier}")
    return found()


@pytest.mark.usefixtures("tables")
def test_a_keras_that_takes_no_strings_is_told_with_what_to_write(monkeypatch):
    monkeypatch.setattr(keras.initializers, "get", strict_get)
    with pytest.warns(UserWarning, match=r'kernel_initializer=keras_he.get\("he_prelu"\)'):
        keras_he.register()
    assert keras_he.get("he_prelu").activation == "prelu"


@pytest.mark.usefixtures("tables")
def test_a_keras_with_a_table_of_its_own_gets_the_strings_there(monkeypatch):
    own = {"he_normal": keras.initializers.HeNormal}

    def get(identifier):
        if identifier not in own:
            raise ValueError(f"Could not interpret initializer identifier: {identifier}")
        return own[identifier]()

    monkeypatch.setattr(keras.initializers, "get", get)
    monkeypatch.setattr(registry, "built_in_initializers", lambda: own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keras_he.register()
    assert own["he_normal"] is keras.initializers.HeNormal
    assert set(own) == {"he_normal", *NAMES}
    assert keras.initializers.get("he_prelu").activation == "prelu"


def test_no_private_table_is_touched_where_strings_resolve_without():
    probe = {"class_name": "he_prelu", "config": {}}
    assert keras.initializers.get(probe).activation == "prelu"
    built_in = keras_private.built_in_initializers() or {}
    if tuple(int(part) for part in keras.version().split(".")[:2]) <= (3, 15):
        assert not set(built_in) & set(NAMES)


def test_a_class_name_that_is_no_text_is_refused():
    with pytest.raises(keras_he.KerasHeError, match="`identifier` must be"):
        keras_he.get({"class_name": np.array([1, 2])})
