"""Every bad argument, shape and dtype has an error that names it and says what to write instead."""

import builtins
import inspect
import math
import random
import re

import keras
import numpy as np
import pytest

import keras_he

CLASSES = (
    keras_he.KaimingNormal,
    keras_he.KaimingUniform,
    keras_he.KaimingTruncatedNormal,
    keras_he.KaimingOrthogonal,
)
Normal = keras_he.KaimingNormal
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def refused(match):
    """Returns the context in which InvalidArgument is expected."""
    return pytest.raises(keras_he.KerasHeError, match=match)


def random_prelu():
    return keras.layers.PReLU(alpha_initializer="random_uniform")


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no representation")


# Arguments that are refused when the initializer is built, and the message.

ACTIVATIONS = {
    "typo": ("rleu", "`activation` must be .*Received: activation='rleu'\nDid you mean \"relu\""),
    "typo_of_prelu": ("preul", 'Did you mean "prelu"'),
    "typo_of_leaky_relu": ("leakyrelu", 'Did you mean "leaky_relu"'),
    "upper_case": ("ReLU", 'Did you mean "relu"'),
    "nothing_like_it": ("xyzzy", "activation='xyzzy'$"),
    "empty": ("", "activation=''$"),
    "its_own_string": ("he_prelu", "activation='he_prelu'"),
    "number": (0.25, "activation=0.25"),
    "bool": (True, "activation=True"),
    "list": (["relu"], r"activation=\['relu'\]"),
    "dict": ({"class_name": "ReLU"}, "activation={'class_name': 'ReLU'}"),
    "array": (np.ones(3), "activation=array"),
    "bytes": (b"relu", "activation=b'relu'"),
    "layer_class": (keras.layers.LeakyReLU, "Pass an instance"),
    "softmax": ("softmax", "softmax"),
    "softmax_function": (keras.activations.softmax, "softmax"),
    "softmax_layer": (keras.layers.Softmax(), "softmax"),
    "log_softmax": ("log_softmax", "log_softmax"),
    "random_prelu_layer": (random_prelu(), 'Build it first, or write activation="prelu"'),
    "unprintable": (Unprintable(), "activation=<Unprintable instance"),
}


@every_class
@pytest.mark.parametrize(("activation", "match"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_bad_activation_is_refused(cls, activation, match):
    with refused(match):
        cls(activation)


MODES = {
    "typo": ("fan_inn", '`mode` must be "fan_in", "fan_out" or "fan_avg".*\nDid you mean "fan_in"'),
    "upper_case": ("FAN_OUT", 'Did you mean "fan_out"'),
    "half": ("fan", "Received: mode='fan'"),
    "none": (None, "Received: mode=None"),
    "number": (1, "Received: mode=1"),
    "list": (["fan_in"], r"Received: mode=\['fan_in'\]"),
}


@every_class
@pytest.mark.parametrize(("mode", "match"), MODES.values(), ids=MODES)
def test_bad_mode_is_refused(cls, mode, match):
    with refused(match):
        cls(mode=mode)


GEOMETRIES = {
    "typo": ("depthwize", '`geometry` must be None, "depthwise" .*\nDid you mean "depthwise"'),
    "transposed": ("transposed", 'Did you mean "transpose"'),
    "dense": ("dense", "Received: geometry='dense'$"),
    "number": (2, "Received: geometry=2"),
    "false": (False, "Received: geometry=False"),
    "list": (["depthwise"], r"Received: geometry=\['depthwise'\]"),
    "array": (np.array([1, 2]), r"`geometry` must be .*array\(\[1, 2\]\)"),
}


@every_class
@pytest.mark.parametrize(("geometry", "match"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_bad_geometry_is_refused(cls, geometry, match):
    with refused(match):
        cls(geometry=geometry)


NUMBERS = {
    "nan": math.nan,
    "infinite": math.inf,
    "infinite_below": -math.inf,
    "complex": 1 + 0j,
    "numpy_complex": np.complex64(1 + 2j),
    "true": True,
    "numpy_bool": np.True_,
    "array_of_bool": np.array(True),
    "text": "2",
    "array_of_text": np.array("2"),
    "bytes": b"2",
    "object": object(),
    "dict": {"value": 1.0},
    "beyond_floats": 10**400,
    "beyond_printing": 10**5000,
}
every_bad_number = pytest.mark.parametrize("value", NUMBERS.values(), ids=NUMBERS)


@every_class
@every_bad_number
def test_bad_gain_is_refused(cls, value):
    with refused("`gain` must be a finite number above 0. Received: gain="):
        cls(gain=value)


@every_class
@pytest.mark.parametrize("gain", [0, 0.0, -0.0, -1.0, -1e-300, 1e-200, 1e200])
def test_gain_out_of_range_is_refused(cls, gain):
    with refused(re.escape(f"`gain` must be a finite number above 0. Received: gain={gain!r}")):
        cls(gain=gain)


@pytest.mark.parametrize("gain", [[1.0], [1.0, 2.0], np.ones(2)], ids=repr)
def test_several_gains_are_refused(gain):
    with refused("`gain` must be a finite number above 0"):
        Normal(gain=gain)


@every_class
@every_bad_number
def test_bad_slope_is_refused(cls, value):
    with refused("`negative_slope` must be .*number.* Received: negative_slope="):
        cls("prelu", negative_slope=value)


SLOPES = (
    [],
    [0.1, math.nan],
    [0.1, math.inf],
    [0.1, "a"],
    [0.1, None],
    [True, False],
    [1j],
    [[1], [1, 2]],
)


@pytest.mark.parametrize("slopes", SLOPES, ids=str)
def test_bad_slopes_per_channel_are_refused(slopes):
    with refused("`negative_slope` must be .*number.* Received: negative_slope="):
        Normal("prelu", negative_slope=slopes)


@pytest.mark.parametrize("slope", [1e200, -1e200, [1e200, 1.0]], ids=str)
def test_slope_whose_square_overflows_is_refused(slope):
    with refused("`negative_slope` must be"):
        Normal("prelu", negative_slope=slope)


SLOPELESS = {
    "default": None,
    "relu": "relu",
    "linear": "linear",
    "relu_function": keras.activations.relu,
    "leaky_layer": keras.layers.LeakyReLU(0.1),
    "prelu_layer": keras.layers.PReLU(),
    "relu_layer": keras.layers.ReLU(negative_slope=0.1),
    "leaky_in_an_activation_layer": keras.layers.Activation("leaky_relu"),
    "callable": np.tanh,
}


@every_class
@pytest.mark.parametrize("activation", SLOPELESS.values(), ids=SLOPELESS)
def test_slope_of_an_activation_that_takes_none_is_refused(cls, activation):
    with refused('`negative_slope` must be given with activation="leaky_relu" or "prelu" only'):
        cls(activation, negative_slope=0.1)


@every_class
@pytest.mark.parametrize(
    ("argument", "value"),
    [("activation", "relu"), ("activation", np.tanh), ("negative_slope", 0.1)],
    ids=["activation", "callable", "negative_slope"],
)
def test_gain_excludes_what_it_replaces(cls, argument, value):
    with refused(f"`{argument}` must be None where `gain` is given.*\n.*one or the other"):
        cls(gain=1.0, **{argument: value})


COUNTS = {
    "zero": 0,
    "below_zero": -1,
    "true": True,
    "numpy_bool": np.True_,
    "fraction": 1.5,
    "whole_float": 2.0,
    "nan": math.nan,
    "text": "2",
    "none": None,
    "dict": {},
}


@every_class
@pytest.mark.parametrize("argument", ["strides", "groups", "gates"])
@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS)
def test_bad_count_is_refused(cls, argument, count):
    with refused(f"`{argument}` must be an integer of at least 1. Received: {argument}="):
        cls(**{argument: count})


@pytest.mark.parametrize("argument", ["groups", "gates"])
def test_several_groups_or_gates_are_refused(argument):
    with refused(f"`{argument}` must be an integer of at least 1"):
        Normal(**{argument: [2, 2]})


@pytest.mark.parametrize("strides", [[2, 0], (1, -1), [True, 1], [[1, 2]], [None]], ids=str)
def test_bad_stride_among_several_is_refused(strides):
    with refused("`strides` must be an integer of at least 1. Received: strides="):
        Normal(strides=strides)


def test_strides_for_no_axis_are_refused():
    with refused("`strides` must be"):
        Normal(strides=[])


@pytest.mark.parametrize("geometry", ["depthwise", "transpose"])
@pytest.mark.parametrize("argument", ["groups", "gates"])
def test_geometry_excludes_groups_and_gates(geometry, argument):
    with refused("`geometry` must be None where `groups` or `gates` is given"):
        Normal(geometry=geometry, **{argument: 2})


@every_class
@pytest.mark.parametrize(
    "arguments",
    [{"geometry": "depthwise"}, {"strides": 2}, {"strides": (1, 1)}, {"groups": 2}, {"gates": 2}],
    ids=str,
)
def test_axes_exclude_geometry(cls, arguments):
    with refused("`input_axes` must be None where .* is given.*\nAxes replace these arguments"):
        cls(input_axes=[0], output_axes=[1], **arguments)


@every_class
@pytest.mark.parametrize(
    ("given", "missing"), [("input_axes", "output_axes"), ("output_axes", "input_axes")]
)
def test_axes_come_in_pairs(cls, given, missing):
    with refused(f"`{missing}` must be given together with the other axes"):
        cls(**{given: [0]})


@pytest.mark.parametrize("argument", ["input_axes", "output_axes"])
@pytest.mark.parametrize(
    "axes", [0, "01", [0.0], [True], [np.True_], [None], ["0"], [[0]], {0}, {0: 1}, 1.5], ids=repr
)
def test_axes_that_are_no_integers_are_refused(argument, axes):
    with refused(f"`{argument}` must be a sequence of integers. Received: {argument}="):
        Normal(**{"input_axes": [0], "output_axes": [1], argument: axes})


SEEDS = {
    "below_zero": -1,
    "too_large": 2**128,
    "beyond_printing": 10**5000,
    "float": 1.0,
    "nan": math.nan,
    "text": "1",
    "bytes": b"1",
    "true": True,
    "numpy_bool": np.False_,
    "list": [1, 2],
    "random": random.Random(1),
    "numpy_generator": np.random.default_rng(1),
    "generator_class": keras.random.SeedGenerator,
    "dict": {"class_name": "Dense", "config": {}},
}


@every_class
@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_bad_seed_is_refused(cls, seed):
    with refused("`seed` must be an integer from 0 to .*, a `keras.random.SeedGenerator`, or None"):
        cls(seed=seed)


@every_class
def test_unknown_argument_is_refused_by_python(cls):
    with pytest.raises(TypeError, match="unexpected keyword argument 'scale'"):
        cls(scale=2.0)


# Shapes, dtypes and values that are refused when a kernel is made.

UNKNOWN = "`shape` must be a sequence of known, non-negative integers. Received: shape="
FEW = "`shape` must be that of a kernel, with two axes or more. Received: shape="
SHAPES = {
    "unknown": ((None, 3), UNKNOWN),
    "unknown_last": ((3, None), UNKNOWN),
    "negative": ((3, -1), UNKNOWN),
    "fraction": ((3, 2.0), UNKNOWN),
    "text": (("3", 3), UNKNOWN),
    "one_number": (3, UNKNOWN),
    "none": (None, UNKNOWN),
    "scalar": ((), FEW),
    "vector": ((3,), FEW),
    "unknown_vector": ((None,), UNKNOWN),
    "empty_vector": ((0,), FEW),
}


@every_class
@pytest.mark.parametrize(("shape", "match"), SHAPES.values(), ids=SHAPES)
def test_bad_shape_is_refused(cls, shape, match):
    with refused(match):
        cls()(shape)


@every_class
def test_shape_of_a_vector_is_refused_with_a_remedy(cls):
    with refused('use `bias_initializer="zeros"`, or give `input_axes` and `output_axes`'):
        cls()((3,))


@every_class
def test_shape_of_a_bias_is_refused_in_a_layer(cls):
    layer = keras.layers.Dense(3, bias_initializer=cls())
    with refused('use `bias_initializer="zeros"`'):
        layer.build((None, 4))


@pytest.mark.parametrize("geometry", ["depthwise", "transpose"])
def test_matrix_is_no_depthwise_or_transposed_kernel(geometry):
    match = rf"`shape` must be \(spatial…, channels, channels\) for a {geometry} kernel"
    with refused(match):
        Normal(geometry=geometry)((3, 4))


def test_depthwise_string_in_a_dense_layer_is_refused():
    layer = keras.layers.Dense(3, kernel_initializer="he_relu_depthwise")
    with refused("`shape` must be .* for a depthwise kernel"):
        layer.build((None, 4))


def test_dense_kernel_has_no_groups():
    with refused("`groups` must be 1 for a dense kernel"):
        Normal(groups=2)((4, 4))


@pytest.mark.parametrize("argument", ["groups", "gates"])
def test_count_that_does_not_divide_the_last_axis_is_refused(argument):
    match = f"`{argument}` must be a divisor of the kernel's last axis, 8. Received: {argument}=3"
    with refused(match):
        Normal(**{argument: 3})((3, 3, 4, 8))


def test_groups_times_gates_that_do_not_divide_the_last_axis_are_refused():
    with refused("`groups` must be a divisor of the kernel's last axis, 6"):
        Normal(groups=2, gates=2)((3, 4, 6))


@pytest.mark.parametrize(
    ("strides", "shape", "axes"),
    [((2, 2), (3, 4, 8), 1), ((2, 2), (3, 3, 3, 4, 8), 3), ((2, 2), (4, 8), 0), (2, (4, 8), 0)],
    ids=["conv1d", "conv3d", "dense", "dense_one_number"],
)
def test_strides_that_do_not_fit_the_spatial_axes_are_refused(strides, shape, axes):
    with refused(rf"`strides` must be one number, or one per spatial axis \({axes}\)"):
        Normal(strides=strides)(shape)


@pytest.mark.parametrize("argument", ["input_axes", "output_axes"])
@pytest.mark.parametrize("axis", [3, -4, 100, 10**5000], ids=["3", "-4", "100", "huge"])
def test_axes_out_of_range_are_refused(argument, axis):
    initializer = Normal(**{"input_axes": [0], "output_axes": [1], argument: [axis]})
    with refused(f"`{argument}` must be axes of a kernel with 3 axes. Received: {argument}="):
        initializer((2, 3, 4))


@pytest.mark.parametrize(
    ("input_axes", "output_axes"),
    [([0], [0]), ([0, 1], [1]), ([0], [-3]), ([0, 0], [1]), ([0], [2, -1])],
    ids=str,
)
def test_axes_that_overlap_are_refused(input_axes, output_axes):
    with refused("`output_axes` must be distinct axes, none among"):
        Normal(input_axes=input_axes, output_axes=output_axes)((2, 3, 4))


KNOWN_DTYPES = (
    '`dtype` must be one of "float16", "bfloat16", "float32", "float64". Received: dtype='
)
DTYPES = ("int8", "int32", "int64", "uint8", "uint32", "bool", "float8_e4m3fn", "float8_e5m2")


@every_class
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_that_holds_no_kernel_is_refused(cls, dtype):
    with refused(f"{KNOWN_DTYPES}'{dtype}'"):
        cls()((3, 4), dtype)


@pytest.mark.parametrize("dtype", ["complex64", "float128", "nonsense", ""])
def test_dtype_unknown_to_keras_is_a_value_error(dtype):
    with pytest.raises(ValueError, match="dtype"):
        Normal()((3, 4), dtype)


@pytest.mark.parametrize("dtype", [np.int32, np.complex64, complex], ids=repr)
def test_dtype_class_that_holds_no_kernel_is_a_value_error(dtype):
    with pytest.raises(ValueError, match="dtype"):
        Normal()((3, 4), dtype)


@every_class
@pytest.mark.parametrize(("gain", "dtype"), [(1e6, "float16"), (1e100, "float32")])
def test_gain_that_overflows_the_dtype_is_refused(cls, gain, dtype):
    with refused(f"`std` must be small enough .* fit into {dtype}.*\n.*use a smaller `gain=`"):
        cls(gain=gain)((3, 4), dtype)


def test_generator_with_a_negative_seed_draws_where_the_backend_makes_one():
    try:
        generator = keras.random.SeedGenerator(-1)
    except OverflowError:
        pytest.skip("this backend makes no such generator")
    initializer = Normal(seed=generator)
    first, second = (keras.ops.convert_to_numpy(initializer((3, 4))) for _ in range(2))
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)


# What is no error


@every_class
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    "shape", [(0, 4), (4, 0), (0, 0), (3, 3, 0, 4), (0, 3, 4, 4), (3, 3, 4, 0)], ids=str
)
def test_shape_with_an_axis_of_length_zero_gives_an_empty_tensor(cls, shape, dtype):
    tensor = cls()(shape, dtype)
    assert tuple(tensor.shape) == shape
    assert keras.backend.standardize_dtype(tensor.dtype) == dtype


@every_class
@pytest.mark.parametrize("shape", [[3, 4], (np.int64(3), 4)], ids=["list", "numpy_integers"])
def test_shape_may_be_any_sequence_of_integers(cls, shape):
    assert tuple(cls()(shape).shape) == (3, 4)


@every_class
def test_vector_with_axes_is_drawn(cls):
    assert tuple(cls(input_axes=[], output_axes=[0])((3,)).shape) == (3,)


# All of them are one kind of error.

CONSTRUCTIONS = {
    "activation": lambda cls: cls("rleu"),
    "mode": lambda cls: cls(mode="fan"),
    "gain": lambda cls: cls(gain=0),
    "seed": lambda cls: cls(seed=-1),
    "geometry": lambda cls: cls(geometry="dense"),
    "axes": lambda cls: cls(input_axes=[0]),
    "config": lambda cls: cls.from_config({"scale": 1}),
}
CALLS = {
    "shape": lambda cls: cls()((None, 3)),
    "vector": lambda cls: cls()((3,)),
    "dtype": lambda cls: cls()((3, 3), "int32"),
    "overflow": lambda cls: cls(gain=1e100)((3, 3)),
}
FAILURES = {**CONSTRUCTIONS, **CALLS}


@every_class
@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_error_is_a_value_error_and_of_keras_he(cls, fail):
    with pytest.raises(ValueError, match="must be") as caught:
        fail(cls)
    assert isinstance(caught.value, keras_he.KerasHeError)


# A call that is refused leaves every generator as it was.

REFUSED_CALLS = {
    "unknown_axis": ({}, (None, 3), "float32"),
    "vector": ({}, (3,), "float32"),
    "integer": ({}, (3, 4), "int32"),
    "nonsense": ({}, (3, 4), "nonsense"),
    "groups": ({"groups": 3}, (3, 4, 8), "float32"),
    "strides": ({"strides": (2, 2)}, (3, 4, 8), "float32"),
    "axes": ({"input_axes": [5], "output_axes": [0]}, (3, 4), "float32"),
    "overflow": ({"gain": 1e6}, (3, 4), "float16"),
}


def assert_refused_call_moves_nothing(cls, arguments, shape, dtype):
    generator = keras.random.SeedGenerator(5)
    initializer = cls(seed=generator, **arguments)
    with pytest.raises(ValueError, match="must be|dtype"):
        initializer(shape, dtype)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(generator.state), [5, 0])


@every_class
@pytest.mark.parametrize(("arguments", "shape", "dtype"), REFUSED_CALLS.values(), ids=REFUSED_CALLS)
def test_refused_call_leaves_the_generator_where_it_stands(cls, arguments, shape, dtype):
    assert_refused_call_moves_nothing(cls, arguments, shape, dtype)


def test_refused_column_leaves_the_generator_where_it_stands():
    # One element may hold the length of its column: 7e4 / 8 · 8 · 6.4 does not fit into float16.
    arguments = {"gain": 7e4}
    assert_refused_call_moves_nothing(keras_he.KaimingOrthogonal, arguments, (64, 64), "float16")


@every_class
@pytest.mark.parametrize("fail", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
def test_refused_construction_leaves_global_generators_where_they_stand(cls, fail):
    before = random.getstate(), np.random.get_state()[1].tobytes()
    with pytest.raises(ValueError, match="must be"):
        fail(cls)
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before


@every_class
def test_generator_refused_once_draws_as_if_nothing_had_been(cls):
    initializer, untouched = (cls(seed=keras.random.SeedGenerator(5)) for _ in range(2))
    with refused("`shape` must be"):
        initializer((3, None))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(initializer((3, 4))),
        keras.ops.convert_to_numpy(untouched((3, 4))),
    )


@every_class
def test_empty_kernel_leaves_the_generator_where_it_stands(cls):
    generator = keras.random.SeedGenerator(5)
    cls(seed=generator)((3, 0))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(generator.state), [5, 0])


def raised(name):
    """Returns the errors that the docstring of a public name says it raises."""
    found = getattr(keras_he, name)
    told = set()
    for document in (found.__doc__, getattr(found.__init__, "__doc__", "")):
        text = inspect.cleandoc(document or "")  # Python 3.13 takes the indentation away
        section = text.partition("Raises:\n")[2].partition("\n\n")[0]
        told |= set(re.findall(r"^ {4}([A-Z]\w+): ", section, flags=re.MULTILINE))
    return told


@pytest.mark.parametrize("name", keras_he.__all__)
def test_what_a_public_name_raises_can_be_imported(name):
    for error in raised(name):
        cls = getattr(keras_he.errors, error, None) or getattr(builtins, error)
        assert issubclass(cls, Exception)


def test_public_errors_are_of_the_one_base_and_of_a_built_in():
    raisable = set().union(*(raised(name) for name in keras_he.__all__)) - {"ImportError"}
    assert {"InvalidArgument", "NotMeasurable", "NotLoaded", "NotPortable"} <= raisable
    for error in raisable:
        assert issubclass(getattr(keras_he.errors, error), (keras_he.KerasHeError, ValueError))
