"""The contract of configs, over every class and every string, and configs that mean harm."""

import copy
import json
import math
import pickle
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_he
from keras_he import errors

NAMES = keras_he.names()
CLASSES = (
    keras_he.KaimingNormal,
    keras_he.KaimingUniform,
    keras_he.KaimingTruncatedNormal,
    keras_he.KaimingOrthogonal,
)
SHAPE = (3, 3, 4, 8)
LEAKY = {"activation": "leaky_relu"}
PRELU = {"activation": "prelu"}


def built_prelu(*slopes):
    layer = keras.layers.PReLU()
    layer.build((None, len(slopes)))
    layer.set_weights([np.array(slopes, "float32")])
    return layer


def unbuilt_prelu():
    return keras.layers.PReLU(alpha_initializer=keras.initializers.Constant(0.5))


# Arguments, made anew for each test, and the config that they give.
CASES = {
    "nothing": (dict, {}),
    "the_default_activation": (lambda: {"activation": "relu"}, {}),
    "every_default": (
        lambda: {
            "activation": "relu",
            "mode": "fan_in",
            "gain": None,
            "negative_slope": None,
            "geometry": None,
            "strides": 1,
            "groups": 1,
            "gates": 1,
            "seed": None,
            "input_axes": None,
            "output_axes": None,
        },
        {},
    ),
    "linear": (lambda: {"activation": "linear"}, {"activation": "linear"}),
    "leaky_relu": (lambda: {"activation": "leaky_relu"}, {**LEAKY, "negative_slope": 0.2}),
    "prelu": (lambda: {"activation": "prelu"}, {**PRELU, "negative_slope": 0.25}),
    "slope": (
        lambda: {"activation": "leaky_relu", "negative_slope": 0.1},
        {**LEAKY, "negative_slope": 0.1},
    ),
    "slope_zero": (
        lambda: {"activation": "prelu", "negative_slope": 0},
        {**PRELU, "negative_slope": 0.0},
    ),
    "slope_below_zero": (
        lambda: {"activation": "prelu", "negative_slope": -0.5},
        {**PRELU, "negative_slope": -0.5},
    ),
    # The root mean square of 1 and 7 is 5.
    "slopes_per_channel": (
        lambda: {"activation": "prelu", "negative_slope": [1.0, 7.0]},
        {**PRELU, "negative_slope": 5.0},
    ),
    "slopes_as_array": (
        lambda: {"activation": "prelu", "negative_slope": np.array([1, 7])},
        {**PRELU, "negative_slope": 5.0},
    ),
    "function": (lambda: {"activation": keras.activations.linear}, {"activation": "linear"}),
    "default_function": (lambda: {"activation": keras.activations.relu}, {}),
    "leaky_function": (
        lambda: {"activation": keras.activations.leaky_relu},
        {**LEAKY, "negative_slope": 0.2},
    ),
    "leaky_function_and_slope": (
        lambda: {"activation": keras.activations.leaky_relu, "negative_slope": 0.5},
        {**LEAKY, "negative_slope": 0.5},
    ),
    "leaky_layer": (
        lambda: {"activation": keras.layers.LeakyReLU()},
        {**LEAKY, "negative_slope": 0.3},
    ),
    "relu_layer": (lambda: {"activation": keras.layers.ReLU()}, {}),
    "relu_layer_with_slope": (
        lambda: {"activation": keras.layers.ReLU(negative_slope=0.5)},
        {**LEAKY, "negative_slope": 0.5},
    ),
    "activation_layer": (
        lambda: {"activation": keras.layers.Activation("linear")},
        {"activation": "linear"},
    ),
    "unbuilt_prelu_layer": (
        lambda: {"activation": keras.layers.PReLU()},
        {**PRELU, "negative_slope": 0.0},
    ),
    "unbuilt_prelu_layer_with_constant": (
        lambda: {"activation": unbuilt_prelu()},
        {**PRELU, "negative_slope": 0.5},
    ),
    "built_prelu_layer": (
        lambda: {"activation": built_prelu(1.0, 7.0)},
        {**PRELU, "negative_slope": 5.0},
    ),
    "gain": (lambda: {"gain": 1.5}, {"gain": 1.5}),
    "gain_as_integer": (lambda: {"gain": 2}, {"gain": 2.0}),
    "gain_as_numpy_number": (lambda: {"gain": np.float32(1.5)}, {"gain": 1.5}),
    "gain_of_relu": (lambda: {"gain": math.sqrt(2.0)}, {"gain": math.sqrt(2.0)}),
    "fan_out": (lambda: {"mode": "fan_out"}, {"mode": "fan_out"}),
    "fan_avg": (lambda: {"mode": "fan_avg"}, {"mode": "fan_avg"}),
    "depthwise": (lambda: {"geometry": "depthwise"}, {"geometry": "depthwise"}),
    "transpose": (
        lambda: {"geometry": "transpose", "strides": 2},
        {"geometry": "transpose", "strides": 2},
    ),
    "strides": (lambda: {"strides": (2, 3)}, {"strides": [2, 3]}),
    "equal_strides": (lambda: {"strides": [1, 1]}, {"strides": [1, 1]}),
    "one_stride": (lambda: {"strides": [2]}, {"strides": 2}),
    "one_stride_of_one": (lambda: {"strides": (1,)}, {}),
    "strides_as_numpy_number": (lambda: {"strides": np.int64(2)}, {"strides": 2}),
    "groups": (lambda: {"groups": 2}, {"groups": 2}),
    "groups_as_numpy_number": (lambda: {"groups": np.int32(2)}, {"groups": 2}),
    "gates": (lambda: {"gates": 4}, {"gates": 4}),
    "axes": (
        lambda: {"input_axes": (0, 1), "output_axes": (-1,)},
        {"input_axes": [0, 1], "output_axes": [-1]},
    ),
    "axes_as_numpy_numbers": (
        lambda: {"input_axes": list(np.arange(2)), "output_axes": [3]},
        {"input_axes": [0, 1], "output_axes": [3]},
    ),
    "seed": (lambda: {"seed": 7}, {"seed": 7}),
    "seed_zero": (lambda: {"seed": 0}, {"seed": 0}),
    "seed_as_numpy_number": (lambda: {"seed": np.int64(7)}, {"seed": 7}),
    "largest_seed": (lambda: {"seed": 2**128 - 1}, {"seed": 2**128 - 1}),
    "everything_at_once": (
        lambda: {
            "activation": "prelu",
            "mode": "fan_avg",
            "negative_slope": 0.5,
            "strides": 2,
            "groups": 2,
            "gates": 2,
            "seed": 1,
        },
        {
            **PRELU,
            "negative_slope": 0.5,
            "mode": "fan_avg",
            "strides": 2,
            "groups": 2,
            "gates": 2,
            "seed": 1,
        },
    ),
}

every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
every_case = pytest.mark.parametrize(("arguments", "config"), CASES.values(), ids=CASES)


def drawn(initializer, shape=SHAPE):
    return keras.ops.convert_to_numpy(initializer(shape, "float32"))


def assert_equal_draws(first, second):
    np.testing.assert_array_equal(drawn(first), drawn(second))


def with_seed(cls, arguments):
    return cls(**{"seed": 11, **{k: v for k, v in arguments.items() if v is not None}})


# Every class with every kind of argument


@every_class
@every_case
def test_config_holds_what_is_not_the_default(cls, arguments, config):
    assert cls(**arguments()).get_config() == config


@every_class
@every_case
def test_config_is_json(cls, arguments, config):
    written = cls(**arguments()).get_config()
    assert json.loads(json.dumps(written, allow_nan=False)) == written


@every_class
@every_case
def test_from_config_is_the_inverse_of_get_config(cls, arguments, config):
    initializer = with_seed(cls, arguments())
    again = cls.from_config(initializer.get_config())
    assert type(again) is cls
    assert again.get_config() == initializer.get_config()
    assert_equal_draws(again, initializer)


@every_class
@every_case
def test_from_config_leaves_its_argument_as_it_was(cls, arguments, config):
    given = copy.deepcopy(config)
    cls.from_config(given)
    assert given == config


@every_class
@every_case
def test_serialized_initializer_deserializes_to_an_equal_one(cls, arguments, config):
    initializer = with_seed(cls, arguments())
    serialized = json.loads(json.dumps(keras.initializers.serialize(initializer)))
    again = keras.initializers.deserialize(serialized)
    assert type(again) is cls
    assert again.get_config() == initializer.get_config()
    assert_equal_draws(again, initializer)


COPIES = {
    "pickle": lambda initializer: pickle.loads(pickle.dumps(initializer)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@every_class
@every_case
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copy_is_equal_also_without_a_seed(cls, arguments, config, copied):
    initializer = cls(**arguments())
    again = copied(initializer)
    assert type(again) is cls
    assert again.get_config() == config
    assert_equal_draws(again, initializer)


@every_class
@every_case
def test_clone_is_equal(cls, arguments, config):
    initializer = with_seed(cls, arguments())
    again = initializer.clone()
    assert again is not initializer
    assert again.get_config() == initializer.get_config()
    assert_equal_draws(again, initializer)


@every_class
def test_clone_without_a_seed_draws_anew(cls):
    initializer = cls()
    assert not np.array_equal(drawn(initializer), drawn(initializer.clone()))


@every_class
def test_without_a_seed_every_call_returns_the_same_values(cls):
    initializer = cls()
    assert_equal_draws(initializer, initializer)


@every_class
def test_repr_builds_an_equal_initializer(cls):
    initializer = cls("prelu", "fan_out", negative_slope=0.1, strides=2, seed=3)
    again = eval(repr(initializer), {cls.__name__: cls})
    assert again.get_config() == initializer.get_config()


@every_class
def test_gain_and_the_activation_that_has_it_draw_alike(cls):
    # (1 + 1) / 2 = 1 is the second moment of a linear signal, so its gain is 1.
    assert_equal_draws(cls("linear", seed=1), cls(gain=1.0, seed=1))


@every_class
def test_custom_callable_becomes_its_gain(cls):
    # max(x, 0) has the second moment 1/2, so its gain is the square root of 2.
    initializer = cls(lambda x: np.maximum(x, 0.0), seed=1)
    assert list(initializer.get_config()) == ["gain", "seed"]
    # The quadrature promises 1e-7 of the moment, half of that of the gain.
    assert initializer.get_config()["gain"] == pytest.approx(math.sqrt(2.0), rel=5e-8)


@every_class
def test_custom_callable_is_built_again_from_its_gain(cls):
    initializer = cls(lambda x: np.maximum(x, 0.0) + 0.1 * x, "fan_avg", seed=1)
    again = cls.from_config(json.loads(json.dumps(initializer.get_config())))
    assert again.get_config() == initializer.get_config()
    assert_equal_draws(again, initializer)


def test_capped_relu_layer_becomes_its_gain():
    initializer = keras_he.KaimingNormal(keras.layers.ReLU(max_value=6.0))
    assert list(initializer.get_config()) == ["gain"]


# Every string


@pytest.mark.parametrize("name", NAMES)
def test_from_config_is_the_inverse_of_get_config_for_every_string(name):
    initializer = keras.initializers.get({"class_name": name, "config": {"seed": 5}})
    config = json.loads(json.dumps(initializer.get_config(), allow_nan=False))
    again = type(initializer).from_config(config)
    assert again.get_config() == initializer.get_config()
    assert_equal_draws(again, initializer)


@pytest.mark.parametrize("name", NAMES)
def test_serialized_string_deserializes_to_an_equal_initializer(name):
    initializer = keras.initializers.get({"class_name": name, "config": {"seed": 5}})
    again = keras.initializers.deserialize(keras.initializers.serialize(initializer))
    assert type(again) is type(initializer)
    assert again.get_config() == initializer.get_config()
    assert_equal_draws(again, initializer)


@pytest.mark.parametrize("name", NAMES)
def test_pickled_string_is_an_equal_initializer(name):
    initializer = keras.initializers.get(name)
    again = pickle.loads(pickle.dumps(initializer))
    assert again.get_config() == initializer.get_config()
    assert_equal_draws(again, initializer)


@pytest.mark.parametrize("name", NAMES)
def test_clone_of_a_string_has_its_config(name):
    initializer = keras.initializers.get(name)
    assert initializer.clone().get_config() == initializer.get_config()


# Generators as seeds


@every_class
def test_draws_of_a_generator_move_on(cls):
    initializer = cls(seed=keras.random.SeedGenerator(5))
    assert not np.array_equal(drawn(initializer), drawn(initializer))


@every_class
def test_generators_of_one_seed_draw_alike(cls):
    first, second = (cls(seed=keras.random.SeedGenerator(5)) for _ in range(2))
    for _ in range(3):
        assert_equal_draws(first, second)


@every_class
def test_config_with_a_generator_is_json_and_starts_it_again(cls):
    initializer = cls(seed=keras.random.SeedGenerator(5))
    first = drawn(initializer)
    config = json.loads(json.dumps(initializer.get_config()))
    again = cls.from_config(config)
    assert again.get_config() == initializer.get_config()
    np.testing.assert_array_equal(drawn(again), first)


@every_class
def test_serialized_initializer_with_a_generator_deserializes(cls):
    initializer = cls(seed=keras.random.SeedGenerator(5))
    serialized = json.loads(json.dumps(keras.initializers.serialize(initializer)))
    again = keras.initializers.deserialize(serialized)
    assert isinstance(again.seed, keras.random.SeedGenerator)
    assert_equal_draws(again, initializer)


@every_class
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copy_goes_on_where_the_generator_stands(cls, copied):
    initializer = cls(seed=keras.random.SeedGenerator(5))
    initializer(SHAPE)
    assert_equal_draws(copied(initializer), initializer)


@every_class
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copy_of_a_generator_keeps_its_state_to_itself(cls, copied):
    initializer = cls(seed=keras.random.SeedGenerator(5))
    again = copied(initializer)
    for _ in range(2):
        again(SHAPE)
    untouched = cls(seed=keras.random.SeedGenerator(5))
    assert_equal_draws(initializer, untouched)


@every_class
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copy_of_a_generator_keeps_its_config(cls, copied):
    initializer = cls("prelu", seed=keras.random.SeedGenerator(5))
    assert copied(initializer).get_config() == initializer.get_config()


@every_class
def test_initializers_that_share_a_generator_share_its_state(cls):
    generator = keras.random.SeedGenerator(5)
    first, second = cls(seed=generator), cls(seed=generator)
    assert not np.array_equal(drawn(first), drawn(second))


# What Keras reads off a VarianceScaling

DISTRIBUTIONS = ("untruncated_normal", "uniform", "truncated_normal", "orthogonal")


@every_class
def test_initializer_is_a_variance_scaling(cls):
    assert isinstance(cls(), keras.initializers.VarianceScaling)


@pytest.mark.parametrize(
    ("cls", "distribution"), [*zip(CLASSES, DISTRIBUTIONS, strict=True)], ids=DISTRIBUTIONS
)
def test_distribution_is_that_of_the_law(cls, distribution):
    assert cls().distribution == distribution


# Scale is the square of the gain: 2 / (1 + a²) with a the slope below zero, in every mode.
SCALES = {
    "relu": (("relu",), {}, 2.0),
    "linear": (("linear",), {}, 1.0),
    "prelu": (("prelu",), {}, 32 / 17),
    "slope": (("leaky_relu",), {"negative_slope": 3.0}, 0.2),
    "gain": ((), {"gain": 3.0}, 9.0),
}


@every_class
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize(("args", "kwargs", "scale"), SCALES.values(), ids=SCALES)
def test_scale_is_the_square_of_the_gain(cls, mode, args, kwargs, scale):
    assert cls(*args, mode=mode, **kwargs).scale == pytest.approx(scale, rel=1e-12)


@every_class
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
def test_mode_is_the_one_given(cls, mode):
    assert cls(mode=mode).mode == mode


@every_class
def test_axes_are_the_ones_given(cls):
    initializer = cls(input_axes=[0, 1], output_axes=[2])
    assert [*initializer.input_axes] == [0, 1]
    assert [*initializer.output_axes] == [2]


@every_class
def test_axes_are_none_unless_given(cls):
    assert (cls().input_axes, cls().output_axes) == (None, None)


@every_class
def test_seed_is_the_one_given(cls):
    generator = keras.random.SeedGenerator(1)
    assert cls(seed=9).seed == 9
    assert cls(seed=generator).seed is generator


@every_class
def test_seed_is_an_integer_where_none_is_given(cls):
    assert isinstance(cls().seed, int)


@every_class
def test_config_with_a_concrete_seed_and_axes_added_builds_the_same_kernel(cls):
    # What EinsumDense and attention do since Keras 3.15.
    initializer = cls("prelu")
    config = {**initializer.get_config(), "seed": initializer.seed}
    again = cls.from_config({**config, "input_axes": [0, 1, 2], "output_axes": [3]})
    assert_equal_draws(again, initializer)


# Configs that mean harm: nothing is called, imported or looked up, and the answer is quick.

LONG = "a" * 10_000_000
MANY = [0.5] * 10**6
LARGE = 10**4000
LARGER = 10**5000  # beyond the digits that Python turns into a string
NESTED = [[[[[[MANY]]]]]]

calls = SimpleNamespace(count=0)


@keras.saving.register_keras_serializable("tests")
def tripwire(*_args, **_kwargs):
    calls.count += 1


@keras.saving.register_keras_serializable("tests")
class Tripwire:
    def __init__(self, **_kwargs):
        calls.count += 1

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __call__(self, x):
        calls.count += 1
        return x


def serialized(class_name, config, module=None, registered_name=None):
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": registered_name,
    }


OBJECTS = {
    "lambda": lambda x: tripwire(x),
    "function": tripwire,
    "class": Tripwire,
    "object": object(),
    "registered_function": serialized("function", "tripwire", "builtins", "tests>tripwire"),
    "dotted_function": serialized("function", "os.system", "os", "system"),
    "lambda_config": serialized("__lambda__", {"value": "4wAAAAAAAAAA"}),
    "registered_object": serialized("Tripwire", {}, None, "tests>Tripwire"),
    "object_of_a_module": serialized("Payload", {}, "hostile_module", None),
    "object_in_a_list": [serialized("Tripwire", {}, None, "tests>Tripwire")],
    "object_in_a_dict": {"value": serialized("Tripwire", {}, None, "tests>Tripwire")},
    "list": MANY,
    "tuple": tuple(MANY),
    "nested_list": NESTED,
    "dict": dict.fromkeys(map(str, range(10**5))),
    "nan": math.nan,
    "infinity": math.inf,
    "bytes": b"a" * 10_000_000,
    "set": {0.5},
}
TEXTS = {
    "dotted_path": "os.system",
    "module_path": "hostile_module.payload",
    "registered_name": "tests>tripwire",
    "its_own_string": "he_prelu",
    "long_string": LONG,
    "empty_string": "",
}
INTEGERS = {"large": LARGE, "larger": LARGER, "below_zero": -LARGER}
ARGUMENTS = (
    "activation",
    "negative_slope",
    "gain",
    "seed",
    "mode",
    "geometry",
    "strides",
    "groups",
    "gates",
    "input_axes",
    "output_axes",
)
# Whole positive numbers of any size are what these are made of.
UNBOUNDED = ("strides", "groups", "gates")

HOSTILE = {
    f"{argument}-{kind}": (argument, value)
    for argument in ARGUMENTS
    for kind, value in {**OBJECTS, **TEXTS, **INTEGERS}.items()
    if not (argument in UNBOUNDED and kind in ("large", "larger"))
}


def hostile_config(argument, value):
    """Returns a config whose only fault is this one."""
    if argument.endswith("_axes"):
        return {"input_axes": [0, 1], "output_axes": [2], argument: value}
    if argument == "negative_slope":
        return {"activation": "prelu", argument: value}
    return {argument: value}


ENTRANCES = {
    "from_config": keras_he.KaimingNormal.from_config,
    "deserialize": lambda config: keras.initializers.deserialize(
        serialized("KaimingNormal", config, "keras_he", "keras_he>KaimingNormal")
    ),
    "get": lambda config: keras.initializers.get(
        {"class_name": "keras_he>KaimingNormal", "config": config}
    ),
}
every_entrance = pytest.mark.parametrize("enter", ENTRANCES.values(), ids=ENTRANCES)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Fails where a module was imported, a tripwire called, or a long text compared with names.

    A module waits to be imported.
    """
    (tmp_path / "hostile_module.py").write_text("def payload(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    compare = errors.get_close_matches

    def compare_short(name, *others, **options):
        assert len(name) <= 64  # difflib is quadratic
        return compare(name, *others, **options)

    monkeypatch.setattr(errors, "get_close_matches", compare_short)
    before = set(sys.modules)
    calls.count = 0
    yield
    assert calls.count == 0
    assert set(sys.modules) - before == set()


def assert_refused_shortly(enter, config, match):
    with pytest.raises(keras_he.KerasHeError, match=match) as caught:
        enter(config)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 500


@pytest.mark.usefixtures("watched")
@every_entrance
@pytest.mark.parametrize(("argument", "value"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_value_is_refused_by_name(enter, argument, value):
    assert_refused_shortly(enter, hostile_config(argument, value), f"`{argument}` must be")


KEYS = {
    "unknown": "scale",
    "lambda": "lambda",
    "class_name": "class_name",
    "module": "module",
    "long": LONG,
    "integer": 1,
    "none": None,
    "private": "_draw",
}


@pytest.mark.usefixtures("watched")
@every_entrance
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_unknown_key_is_refused(enter, key):
    assert_refused_shortly(enter, {key: 1.0}, "`config` must be a dict with keys among activation")


@pytest.mark.usefixtures("watched")
@every_entrance
def test_key_that_is_nearly_known_is_guessed(enter):
    assert_refused_shortly(enter, {"negative_slop": 0.1}, 'Did you mean "negative_slope"')


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    "config",
    [None, 5, "os.system", [1], tripwire],
    ids=lambda one: getattr(one, "__name__", repr(one)),
)
def test_config_that_is_no_dict_is_refused(config):
    assert_refused_shortly(
        keras_he.KaimingNormal.from_config, config, "`config` must be a dict as `get_config`"
    )


GENERATOR = {"module": "keras.random", "class_name": "SeedGenerator", "registered_name": None}
SEEDS = {
    "another_class": {**GENERATOR, "class_name": "Dense", "config": {"units": 3}},
    "registered_class": {**GENERATOR, "registered_name": "tests>Tripwire", "config": {"seed": 1}},
    "tripwire": serialized("Tripwire", {}, None, "tests>Tripwire"),
    "function": serialized("function", "tripwire", "builtins", "tests>tripwire"),
    "no_config": GENERATOR,
    "config_of_a_class": {**GENERATOR, "config": serialized("Tripwire", {}, None, "x")},
    "unknown_key": {**GENERATOR, "config": {"seed": 1, "backend": "os"}},
    "object_as_seed": {**GENERATOR, "config": {"seed": {"class_name": "Tripwire"}}},
    "text_as_seed": {**GENERATOR, "config": {"seed": LONG}},
    "list_as_seed": {**GENERATOR, "config": {"seed": MANY}},
    "fraction_as_seed": {**GENERATOR, "config": {"seed": 1.5}},
    "nan_as_seed": {**GENERATOR, "config": {"seed": math.nan}},
    "bool_as_seed": {**GENERATOR, "config": {"seed": True}},
    "large_seed": {**GENERATOR, "config": {"seed": LARGE}},
    "larger_seed": {**GENERATOR, "config": {"seed": LARGER}},
    "seed_beyond_64_bits": {**GENERATOR, "config": {"seed": 2**64}},
    "object_as_name": {**GENERATOR, "config": {"seed": 1, "name": {"class_name": "Tripwire"}}},
    "empty": {},
}


@pytest.mark.usefixtures("watched")
@every_entrance
@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_hostile_generator_is_refused(enter, seed):
    assert_refused_shortly(enter, {"seed": seed}, "`seed` must be")


@pytest.mark.usefixtures("watched")
@every_entrance
def test_generator_that_only_another_backend_can_make_is_refused(enter):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow, whose seeds have 64 bits, is the other backend")
    seed = {**GENERATOR, "config": {"seed": 2**40}}
    assert_refused_shortly(enter, {"seed": seed}, "`seed` must be")


@pytest.mark.usefixtures("watched")
@every_entrance
@pytest.mark.parametrize("argument", UNBOUNDED)
@pytest.mark.parametrize("number", [LARGE, LARGER], ids=["large", "larger"])
def test_absurd_geometry_is_refused_before_a_kernel_is_drawn(enter, argument, number):
    def build_and_draw(config):
        enter(config)(SHAPE)

    config = {argument: number, "mode": "fan_out"}
    assert_refused_shortly(build_and_draw, config, f"`({argument}|std)` must be")


@pytest.mark.usefixtures("watched")
@every_entrance
@pytest.mark.parametrize("length", [65, 10**6])
@pytest.mark.parametrize("argument", ["strides", "input_axes", "output_axes"])
def test_long_list_of_valid_numbers_is_refused(enter, argument, length):
    config = hostile_config(argument, [1] * length)
    assert_refused_shortly(enter, config, f"`{argument}` must be a list of at most 64 numbers")
