"""README.md and docs/: their numbers, tables, names and blocks of code; sentences are free.

Numbers in the tables of gains come from the moments, those in the tables of fans from layers that
are built here; Keras' fans from its rule, written a second time, and from what its initializers
draw in those layers. torch's numbers are compared where torch is installed.
"""

import ast
import doctest
import math
import re
from fractions import Fraction
from functools import lru_cache, partial
from inspect import signature
from pathlib import Path

import keras
import numpy as np
import pytest
from bounds import ALPHA, second_moment_band

import keras_he
from keras_he.audit_model import verdicts
from keras_he.layers import rules as layers
from keras_he.layers import walk
from keras_he.theory import activations
from keras_he.theory.quadrature import moments_of

ROOT = Path(__file__).resolve().parents[2]
GAINS, FANS, README = "docs/gains.md", "docs/fans.md", "README.md"
DOCUMENTS = [README, *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))]
TOLD_AXES = "input_axes" in signature(keras.initializers.VarianceScaling).parameters


def text(document):
    return (ROOT / document).read_text(encoding="utf-8")


def section(document, title):
    """Returns the text of a section, up to the next heading."""
    (body,) = [
        part
        for part in re.split(r"^#+ ", text(document), flags=re.MULTILINE)
        if part.startswith(title + "\n")
    ]
    return body


def spans(document, title):
    """Returns the pieces of code in the sentences and tables of a section."""
    return set(re.findall(r"`([^`\n]+)`", section(document, title)))


def numbers(document, title):
    """Returns the numbers of a section, as they are written."""
    return set(re.findall(r"(?<![\w.])\d[\d.]*(?:e-?\d+|/\d+)?(?<!\.)", section(document, title)))


def table(document, title, number=0):
    """Returns the rows of a section's table as dicts; an empty first cell repeats the one above."""
    body = section(document, title)
    found = re.findall(r"(?:^\|.*\n)+", body, flags=re.MULTILINE)[number].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found]
    for row, above in zip(rows[1:], rows, strict=False):
        row[0] = row[0] or above[0]
    return [dict(zip(header, row, strict=True)) for row in rows]


def code(cell):
    """Returns the one piece of code that a cell holds."""
    assert re.fullmatch(r"`[^`]+`", cell), cell
    return cell.strip("`")


def assert_number(printed, value, slack=0.0):
    """Asserts four significant digits or more, right to half a unit of the last one."""
    digits = printed.replace(".", "").lstrip("0")
    assert len(digits) >= 4, printed
    half = 0.5 * 10.0 ** -len(printed.partition(".")[2])
    assert abs(float(printed) - value) <= half * (1 + 1e-9) + slack * value, (printed, value)


def rows(*arguments, by):
    """Returns the parameters of a test, one for each row of a table."""
    found = table(*arguments)
    ids = ["-".join(re.sub(r"[^\w.=]+", "_", row[key]).strip("_") for key in by) for row in found]
    return [pytest.param(row, id=name) for row, name in zip(found, ids, strict=True)]


# Gains


def call(name_and_parameters):
    """Returns the name and the parameters of an activation that is written as a call."""
    written = ast.parse(name_and_parameters, mode="eval").body
    if isinstance(written, ast.Name):
        return written.id, {}
    assert isinstance(written, ast.Call)
    return written.func.id, {word.arg: ast.literal_eval(word.value) for word in written.keywords}


def function(name, **parameters):
    """Returns the definition of an activation of the table, in NumPy."""
    known = activations.KNOWN[activations.canonical(name)]
    defaults = {key: parameter.default for key, parameter in known.parameters.items()}
    return partial(known.function, **{**defaults, **parameters})


def assert_row(row, moments):
    signal, gradient = activations.depth_factors(moments)
    for column, value in {
        "E[f²]": moments.signal,
        "E[f'²]": moments.gradient,
        "forward": activations.gain(moments, "fan_in"),
        "backward": activations.gain(moments, "fan_out"),
        "signal": signal,
        "gradient": gradient,
    }.items():
        assert_number(row[column], value)


def method(name, parameters):
    """Returns how the moments are found, as the documents write it."""
    known = activations.KNOWN["threshold" if name == "threshold" else activations.canonical(name)]
    defaults = {key: parameter.default for key, parameter in known.parameters.items()}
    closed = known.closed and known.closed(**{**defaults, **parameters})
    return "closed" if closed else "quadr."


@pytest.mark.parametrize("row", rows(GAINS, "Every name", by=["activation"]))
def test_the_row_of_a_name_has_its_numbers(row):
    name = code(row["activation"])
    assert_row(row, activations.moments(name))
    assert row["by"] == method(name, {})
    initializer = keras.initializers.get(code(row["string"]))
    assert code(row["string"]) == f"he_{name}"
    assert_number(row["forward"], initializer.gain)
    assert_number(row["forward"], keras_he.gain(name))
    assert_number(row["backward"], keras_he.gain(name, mode="fan_out"))


def test_every_name_has_one_row():
    names = [code(row["activation"]) for row in table(GAINS, "Every name")]
    assert sorted(names) == list(activations.NAMES)


@pytest.mark.parametrize("row", rows(GAINS, "Other parameters", by=["activation"]))
def test_the_row_of_parameters_has_its_numbers(row):
    name, parameters = call(code(row["activation"]))
    assert_row(row, activations.moments(name, **parameters))
    assert row["by"] == method(name, parameters)


@pytest.mark.parametrize("row", rows(GAINS, "Other parameters", by=["activation"]))
def test_what_the_row_says_to_pass_has_that_gain(row):
    name, parameters = call(code(row["activation"]))
    if row["layer"]:
        activation, slack = eval("keras.layers." + code(row["layer"])), 0.0
    else:
        slack = 1e-4  # what a function in float32 is promised

        def activation(x):
            return getattr(keras.activations, name)(x, **parameters)

    assert_number(row["forward"], keras_he.gain(activation), slack)
    assert_number(row["backward"], keras_he.gain(activation, mode="fan_out"), slack)


@pytest.mark.parametrize("name", ["gelu", "tanh", "relu"])
def test_the_formulas_of_gain_and_variance_are_those_of_the_modes(name):
    moments = activations.moments(name)
    fans = {"fan_in": 64, "fan_out": 128}
    for row in table(GAINS, "Gains"):
        mode = code(row["mode"]).strip('"')
        formulas = [code(row[column]) for column in ("gain", "variance")]
        for symbol, value in (("E[f²]", moments.signal), ("E[f'²]", moments.gradient), ("·", "*")):
            formulas = [formula.replace(symbol, str(value)) for formula in formulas]
        gain, variance = (eval(formula, {"sqrt": math.sqrt}, fans) for formula in formulas)
        assert gain == pytest.approx(keras_he.gain(name, mode=mode), rel=1e-12)
        drawn = keras_he.KaimingUniform(name, mode, seed=0)((64, 128))
        limit = float(np.abs(keras.ops.convert_to_numpy(drawn)).max())
        # The largest of 8192 uniform values: 1 % below the limit has probability e^-82.
        assert 0.99 <= limit / math.sqrt(3 * variance) <= 1 + 1e-6


def test_the_refused_names_are_those_of_the_table():
    cells = " ".join(row["activation"] for row in table(GAINS, "Refused"))
    names = re.findall(r"`(\w+)`", cells)
    assert sorted(names) == sorted(activations.REFUSED)
    for name in names:
        with pytest.raises(keras_he.KerasHeError, match=name):
            keras_he.gain(name)


def test_what_to_write_for_a_refused_name_is_accepted():
    instead = {row["activation"]: row["instead"] for row in table(GAINS, "Refused")}
    (glu,) = re.findall(r"^`gain=(.*)`$", instead["`glu`"])
    assert eval(glu) == keras_he.gain("sigmoid")
    (threshold,) = re.findall(r"`(lambda .*)`$", instead["`threshold`"])
    expected = activations.moments("threshold", threshold=1.0, default_value=0.0)
    gain = keras_he.gain(eval(threshold))
    assert gain == pytest.approx(activations.gain(expected, "fan_in"), rel=1e-4)


def test_a_random_function_and_one_that_grows_too_fast_are_refused():
    random = np.random.default_rng(0)
    with pytest.raises(keras_he.KerasHeError, match="deterministic"):
        keras_he.gain(lambda x: x * (random.random(x.shape) < 0.5))
    with pytest.raises(keras_he.KerasHeError, match="infinite"):
        keras_he.gain(lambda x: np.exp(x * x))


def test_a_staircase_has_a_forward_gain_only():
    assert keras_he.gain(np.sign) == pytest.approx(1.0)
    with pytest.raises(keras_he.KerasHeError, match="passes no gradient"):
        keras_he.gain(np.sign, mode="fan_out")


def test_a_root_has_a_forward_gain_only():
    def root(z):
        return np.sqrt(np.abs(z))

    # E[|z|] = sqrt(2/π).
    assert keras_he.gain(root) == pytest.approx((2 / math.pi) ** -0.25, rel=1e-7)
    with pytest.raises(keras_he.KerasHeError, match="gain"):
        keras_he.gain(root, mode="fan_out")


def test_a_glu_has_the_second_moment_of_a_sigmoid():
    # E[a²·σ(b)²] = E[a²]·E[σ(b)²], independent of Keras' halves: integrated on a grid.
    z = np.linspace(-12, 12, 200_001)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    second_moment = float(np.sum(density / (1 + np.exp(-z)) ** 2) * (z[1] - z[0]))
    assert keras_he.gain("sigmoid") == pytest.approx(second_moment**-0.5, rel=1e-9)


@pytest.mark.parametrize(
    ("family", "scale", "mode"),
    [("he", 2, "fan_in"), ("lecun", 1, "fan_in"), ("glorot", 1, "fan_avg")],
)
def test_keras_initializers_have_three_gains(family, scale, mode):
    for law in ("normal", "uniform"):
        initializer = keras.initializers.get(f"{family}_{law}")
        assert (initializer.scale, initializer.mode) == (scale, mode)
        assert f"{family}_{law}" in spans(GAINS, "Gains")


def second_moment(f, q):
    """Returns `E[f(y)²]` of y normal with second moment q."""
    return moments_of(lambda z: f(math.sqrt(q) * z)).signal


def limit(f, gain):
    """Returns where the second moment of pre-activations settles."""
    q = 1.0
    for _ in range(300):
        before, q = q, gain**2 * second_moment(f, q)
        if abs(q - before) <= 1e-9 * q:
            return q
    raise AssertionError("it does not settle")


def after(layers_count, q):
    """Returns the second moment after layers of gelu with its forward gain."""
    for _ in range(layers_count):
        q = second_moment(function("gelu"), q) / activations.moments("gelu").signal
    return q


def hard_shrink_with_its_jumps():
    # E[f(√q·z)²] is q times that of the threshold 0.5/√q; its slope by q, over its value.
    def value(q):
        return q * activations.moments("hard_shrink", threshold=0.5 / math.sqrt(q)).signal

    return (value(1 + 1e-5) - value(1 - 1e-5)) / 2e-5 / value(1)


GLOROT_ALL_GATES = math.sqrt(2 / (64 + 4 * 128))
GLOROT_ONE_GATE = math.sqrt(2 / (64 + 128))
SIGNAL = {
    name: activations.depth_factors(activations.moments(name)).signal for name in ("tanh", "gelu")
}
GRADIENT = {
    name: activations.depth_factors(activations.moments(name)).gradient for name in ("tanh", "gelu")
}
SLOPES = {slope: math.sqrt(2 / (1 + slope**2)) for slope in (0.01, 0.2, 0.3)}

# torch.nn.init.calculate_gain, PyTorch 2.13: the argument as it is written, the number, and the
# activation that it is for.
TORCH = {
    '"linear"': (1.0, "linear", {}),
    '"conv2d"': (1.0, "linear", {}),
    '"relu"': (math.sqrt(2), "relu", {}),
    '"leaky_relu"': (math.sqrt(2 / 1.0001), "leaky_relu", {"negative_slope": 0.01}),
    '"leaky_relu", 0.2': (math.sqrt(2 / 1.04), "leaky_relu", {"negative_slope": 0.2}),
    '"selu"': (3 / 4, "selu", {}),
    '"sigmoid"': (1.0, "sigmoid", {}),
    '"tanh"': (5 / 3, "tanh", {}),
}

# Numbers that sections tell in their sentences: as they are written, and what they are.
LEAKY, PRELU = (activations.DEFAULT_SLOPES[name] for name in ("leaky_relu", "prelu"))
THRESHOLD = activations.KNOWN["hard_shrink"].parameters["threshold"].default
SQUAREPLUS = activations.KNOWN["squareplus"].parameters["b"].default
TAPS = keras_he.fans((3, 3, 1, 1), strides=2).fan_out
NUMBERS = [
    (GAINS, "Depth factors", "2.3", 5 * SIGNAL["tanh"]),
    (GAINS, "Depth factors", "1.18", GRADIENT["tanh"]),
    (GAINS, "Depth factors", "7.1", 100 * math.log10(GRADIENT["tanh"])),
    (GAINS, "Depth factors", "1.07", GRADIENT["gelu"]),
    (GAINS, "Depth factors", "3.0", 100 * math.log10(GRADIENT["gelu"])),
    (GAINS, "Depth factors", "1.14", SIGNAL["gelu"]),
    (GAINS, "Depth factors", "74", 5 * SIGNAL["gelu"] ** 20),
    (GAINS, "Depth factors", "1.86", partial(after, 20, 1.05)),
    (GAINS, "Depth factors", "0.41", partial(after, 20, 0.95)),
    (GAINS, "Depth factors", "1.0454", hard_shrink_with_its_jumps),
    (GAINS, "Depth factors", "1.0000", 1.0),
    (GAINS, "Beside torch", "1.4141", SLOPES[0.01]),
    (GAINS, "Beside torch", "1.3868", SLOPES[0.2]),
    (GAINS, "Beside torch", "1.3546", SLOPES[0.3]),
    (GAINS, "Beside torch", "5/3", TORCH['"tanh"'][0]),
    (GAINS, "Beside torch", "3/4", TORCH['"selu"'][0]),
    (GAINS, "Gains", "1/2", activations.moments("relu").signal),
    (
        GAINS,
        "Gains",
        "0.5",
        lambda: activations.KNOWN["hard_shrink"].parameters["threshold"].default,
    ),
    (GAINS, "Every name", "0.2", LEAKY),
    (GAINS, "Every name", "0.25", PRELU),
    (GAINS, "Every name", "0.5", THRESHOLD),
    (GAINS, "Every name", "4", SQUAREPLUS),
    (GAINS, "Other parameters", "0.3", lambda: keras.layers.LeakyReLU().negative_slope),
    (GAINS, "Your own function", "1e-7", 1e-7),
    (GAINS, "Your own function", "1e-4", 1e-4),
    (GAINS, "Your own function", "2e-3", 2e-3),
    (GAINS, "Your own function", "0.001", 1e-3),
    (FANS, "Fans", "2.25", TAPS),
    (FANS, "Beside Keras", "54", 30 * math.log10(64)),
    (FANS, "What to write", "0.05893", GLOROT_ALL_GATES),
    (FANS, "What to write", "0.1021", GLOROT_ONE_GATE),
]


@pytest.mark.parametrize(
    ("document", "title", "printed", "value"),
    NUMBERS,
    ids=[f"{title}-{printed}" for _, title, printed, _ in NUMBERS],
)
def test_a_number_of_a_section_is_right(document, title, printed, value):
    assert printed in numbers(document, title)
    value = value() if callable(value) else value
    half = 0.5 * 10.0 ** -len(printed.partition(".")[2])
    exact = "/" in printed or "e" in printed
    assert abs(float(Fraction(printed)) - value) <= (1e-12 if exact else half * (1 + 1e-9))


def test_the_layers_of_leaky_rectifiers_have_the_slopes_that_are_told():
    assert activations.DEFAULT_SLOPES == {"leaky_relu": 0.2, "prelu": 0.25}
    assert keras.layers.LeakyReLU().negative_slope == 0.3
    assert keras_he.gain(keras.layers.PReLU()) == keras_he.gain("relu")
    negative = keras.activations.leaky_relu(keras.ops.convert_to_tensor([-1.0]))
    assert float(keras.ops.convert_to_numpy(negative)[0]) == pytest.approx(-0.2)
    told = {"alpha": 1.0, "threshold": 0.5, "b": 4.0}
    for name in ("elu", "celu", "hard_shrink", "soft_shrink", "squareplus"):
        for key, parameter in activations.KNOWN[name].parameters.items():
            assert parameter.default == told[key]


def test_a_cap_at_six_is_felt_in_the_ninth_decimal():
    assert {"relu6", "ReLU(6.0)"} <= spans(GAINS, "Other parameters")
    assert keras_he.gain(keras.layers.ReLU(6.0)) == keras_he.gain("relu6")
    assert 1e-9 <= keras_he.gain("relu6") - keras_he.gain("relu") < 1e-8


def test_the_paper_is_cited_as_in_the_package():
    assert {"10", "14", "15"} <= numbers(GAINS, "Gains")  # its equations
    formula = "(1 + a²) / 2"
    assert formula in spans(GAINS, "Gains")
    for a in (0.0, 0.25, 1.0):
        found = eval(formula.replace("a²", "a * a"))
        assert activations.moments("prelu", negative_slope=a) == (found, found, found)
    reference = "He et al. (2015), arXiv:1502.01852"
    assert reference in " ".join(section(GAINS, "Gains").split())
    package = " ".join(keras_he.KaimingNormal.__doc__.split())
    assert f"{reference}, equations 10 and 14, and 15 for the slope" in package


@pytest.mark.parametrize("row", rows(GAINS, "Beside torch", by=["calculate_gain(…)"]))
def test_the_row_of_torch_has_its_numbers(row):
    theirs, name, parameters = TORCH[code(row["calculate_gain(…)"])]
    ours = activations.moments(name, **parameters)
    assert_number(row["torch"], theirs)
    assert_number(row["forward"], activations.gain(ours, "fan_in"))
    assert_number(row["one layer"], theirs**2 * ours.signal)
    assert_number(row["limit"], limit(function(name, **parameters), theirs))


def test_the_rows_of_torch_are_all_there():
    assert [code(row["calculate_gain(…)"]) for row in table(GAINS, "Beside torch")] == list(TORCH)


def calculate_gain(*arguments):
    reason = "torch, whose numbers these are, is not installed"
    return pytest.importorskip("torch", reason=reason).nn.init.calculate_gain(*arguments)


@pytest.mark.parametrize("written", TORCH)
def test_torch_gives_the_numbers_that_are_told(written):
    assert calculate_gain(*ast.literal_eval(f"({written},)")) == pytest.approx(TORCH[written][0])


def test_torch_takes_names_of_convolutions_for_linear():
    for kind in ("conv", "conv_transpose"):
        assert {f"{kind}1d", f"{kind}3d"} <= spans(GAINS, "Beside torch")
        assert [calculate_gain(f"{kind}{rank}d") for rank in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.parametrize(
    "name", sorted({*activations.NAMES} - {name for _, name, _ in TORCH.values()})
)
def test_torch_knows_no_other_activation(name):
    for spelling in {name, name.replace("_", "")}:  # hardtanh, softplus
        with pytest.raises(ValueError, match="Unsupported nonlinearity"):
            calculate_gain(spelling)


# Fans

# The layers of "Every layer with a kernel": arguments, the input without its batch (channels alone
# where there are spatial axes), and the symbols.
LAYERS = {
    "Dense": ({"units": 7}, (5,), {"i": 5, "o": 7}),
    "Conv": ({"filters": 12, "groups": 3}, 6, {"i": 6, "o": 12, "groups": 3}),
    "DepthwiseConv": ({"depth_multiplier": 3}, 5, {"c": 5, "m": 3}),
    "SeparableConv": ({"filters": 12, "depth_multiplier": 3}, 5, {"c": 5, "m": 3, "o": 12}),
    "ConvTranspose": ({"filters": 7}, 5, {"i": 5, "o": 7}),
    "ConvLSTM": ({"filters": 7}, 5, {"i": 5, "u": 7}),
    "MultiHeadAttention": (
        {"num_heads": 3, "key_dim": 4, "output_shape": 7},
        (6, 5),
        {"i": 5, "h": 3, "d": 4, "o": 7},
    ),
    "GroupQueryAttention": (
        {"head_dim": 4, "num_query_heads": 6, "num_key_value_heads": 2},
        (8, 5),
        {"i": 5, "h": 6, "g": 2, "d": 4, "o": 5},
    ),
    **dict.fromkeys(("SimpleRNN", "GRU", "LSTM"), ({"units": 7}, (4, 5), {"i": 5, "u": 7})),
    **dict.fromkeys(
        ("SimpleRNNCell", "GRUCell", "LSTMCell"), ({"units": 7}, (5,), {"i": 5, "u": 7})
    ),
    "AdditiveAttention": ({}, (3, 5), {"d": 5}),
    "Embedding": ({"input_dim": 50, "output_dim": 8}, (5,), {"v": 50, "d": 8}),
    "ReversibleEmbedding": (
        {"input_dim": 50, "output_dim": 8, "tie_weights": False},
        (5,),
        {"v": 50, "d": 8},
    ),
}
# What each layer of the other tables is fed, without the batch; 16×16×64 where it is not here.
FED = {
    "Dense": (64,),
    "Embedding": (5,),
    "ReversibleEmbedding": (5,),
    "ConvLSTM2D": (4, 16, 16, 16),
    "AdditiveAttention": (3, 512),
    'EinsumDense("ab,bcd->acd", (8, 16))': (64,),
    **dict.fromkeys(
        (
            *("SimpleRNN", "GRU", "LSTM", "MultiHeadAttention", "GroupQueryAttention"),
            'EinsumDense("abc,bcd->abd", (10, 16))',
        ),
        (10, 64),
    ),
}
# The axes that Keras 3.15 tells the initializer of a kernel.
TOLD = {
    'EinsumDense("ab,bcd->acd", (8, 16))': ((0,), (1, 2)),
    'EinsumDense("abc,bcd->abd", (10, 16))': ((1,), (0, 2)),
    "query": ((0,), (1, 2)),
    "key": ((0,), (1, 2)),
    "value": ((0,), (1, 2)),
    "attention_output": ((0, 1), (2,)),
}
INITIALIZERS = {
    "kernel_initializer": ("kernel",),
    "recurrent_initializer": ("recurrent_kernel",),
    "depthwise_initializer": ("kernel", "depthwise_kernel"),
    "pointwise_initializer": ("pointwise_kernel",),
    "embeddings_initializer": ("embeddings", "reverse_embeddings"),
}
CLASSES = {name: getattr(keras_he, name) for name in ("KaimingNormal", "KaimingOrthogonal")}
CLASSES["keras"] = keras
CONTAINERS = {"RNN", "StackedRNNCells", "Bidirectional", "Wrapper"}


def built(layer, fed):
    """Returns the layer, built on an input of this shape without its batch."""
    shape = (None, *fed)
    if isinstance(layer, (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)):
        layer.build(shape, shape)
    elif isinstance(layer, keras.layers.AdditiveAttention):
        layer.build([shape, shape])
    else:
        layer.build(shape)
    return layer


def filled(layer_class, initializer):
    """Returns the arguments that give every kernel of a layer this initializer."""
    accepted = signature(layer_class).parameters
    return {name: initializer for name in INITIALIZERS if name in accepted}


@lru_cache(maxsize=64)
def example(written, argument="", mode=None):
    """Returns a layer of the tables of examples, built.

    Its kernels are drawn as `argument` says, by Keras' initializer of gain sqrt(2) and this mode,
    or not at all.
    """
    name, _, arguments = written.partition("(")
    by_keras = {
        None: "zeros",
        "fan_in": keras.initializers.HeNormal(seed=1),
        "fan_out": keras.initializers.VarianceScaling(2.0, "fan_out", seed=1),
    }
    layer_class = getattr(keras.layers, name)
    given = eval(f"dict({argument})", CLASSES)
    others = {**filled(layer_class, by_keras[mode]), **given}
    layer = eval(f"layer_class({arguments[:-1]}{', ' * bool(arguments[:-1])}**others)", locals())
    return built(layer, FED.get(written, FED.get(name, (16, 16, 64))))


def mean_square(tensor):
    values = keras.ops.convert_to_numpy(tensor).astype(np.float64)
    return float(np.mean(values**2)), values.size


def assert_variance(tensor, variance, law):
    """Asserts the mean square of a draw, within a band that it leaves with probability 1e-9."""
    found, count = mean_square(tensor)
    below, above = second_moment_band(law, count, ALPHA)
    assert 1 - below <= found / variance <= 1 + above


def by_keras_rule(shape, axes=None):
    """Returns (fan_in, fan_out) as the document says that Keras finds them."""
    if axes is not None:
        return tuple(math.prod(shape[axis] for axis in side) for side in axes)
    if len(shape) == 1:
        return shape * 2
    return math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]


def pair(cell):
    """Returns the two fans of a cell, exactly."""
    fan_in, fan_out = map(Fraction, cell.split(", "))
    return fan_in, fan_out


def layer_names(cell):
    """Returns the layers of a cell; `Conv1D` to `Conv3D` are three."""
    names = re.findall(r"`(\w+)`", cell)
    if " to " in cell:
        first, last = (int(re.search(r"\d", name)[0]) for name in names)
        names = [re.sub(r"\d", str(rank), names[0]) for rank in range(first, last + 1)]
    return names


@lru_cache(maxsize=64)
def symbolic(name):
    """Returns a built layer and the values of its symbols."""
    arguments, fed, symbols = LAYERS[re.sub(r"\dD", "", name)]
    spatial = re.search(r"(\d)D", name)
    if spatial:
        rank = int(spatial[1])
        sizes, strides = (3, 2, 4)[:rank], (2, 3, 5)[:rank]
        arguments = {**arguments, "kernel_size": sizes, "strides": strides}
        fed = (*((2,) if "LSTM" in name else ()), *[16] * rank, fed)
        counts = {"k": math.prod(sizes), "s": math.prod(strides)}
        symbols = {**symbols, **counts, "sizes": sizes, "ones": (1,) * rank}
    layer_class = getattr(keras.layers, name)
    return built(layer_class(**arguments, **filled(layer_class, "zeros")), fed), symbols


SYMBOLIC = [
    (name, code(row["kernel"]), row)
    for row in table(FANS, "Every layer with a kernel")
    for name in layer_names(row["layer"])
]


@pytest.mark.parametrize(
    ("name", "kernel", "row"),
    [case for case in SYMBOLIC if case[0] != "EinsumDense"],
    ids=[f"{name}-{kernel}" for name, kernel, _ in SYMBOLIC if name != "EinsumDense"],
)
def test_the_symbols_of_a_layer_are_its_shape_and_fans(name, kernel, row):
    layer, symbols = symbolic(name)

    def value(cell):
        formula = code(cell).replace("·", "*").replace("k…", "*sizes").replace("1…", "*ones")
        return eval(formula.replace("i/groups,", "i//groups,"), {}, symbols)

    variable = walk.layer_kernels(layer)[kernel].variable
    assert tuple(variable.shape) == value(row["shape"])
    expected = value(row["fan_in"]), value(row["fan_out"])
    assert keras_he.layer_fans(layer)[kernel] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in SYMBOLIC} - {"EinsumDense"}))
def test_every_kernel_of_a_layer_has_one_row(name):
    layer, _ = symbolic(name)
    kernels = [kernel for other, kernel, _ in SYMBOLIC if other == name]
    assert sorted(kernels) == sorted(keras_he.layer_fans(layer))


def test_every_entry_of_the_layer_table_is_told():
    entries = {  # other tests register layers of their own
        name: rule
        for cls, rule in layers.RULES.items()
        if getattr(keras.layers, name := cls.__name__, None) is cls
    }
    rows = {name for name, _, _ in SYMBOLIC}
    others = [
        (set(re.findall(r"`(\w+)`", row["other layers"])), row["kernels"])
        for row in table(FANS, "Every layer with a kernel", 1)
    ]
    without = set().union(*(names for names, kernels in others if kernels == "none"))
    containers = set().union(*(names for names, kernels in others if kernels != "none"))
    empty = {name for name, rule in entries.items() if rule is layers.no_kernels}
    assert without == empty
    assert entries.keys() - empty - rows == CONTAINERS
    assert containers >= CONTAINERS


def test_layers_that_hold_layers_name_them_as_told():
    told = " ".join(row["kernels"] for row in table(FANS, "Every layer with a kernel", 1))
    named = {
        name
        for layer in (
            keras.layers.RNN([keras.layers.SimpleRNNCell(3), keras.layers.SimpleRNNCell(2)]),
            keras.layers.Bidirectional(keras.layers.SimpleRNN(3)),
            keras.layers.TimeDistributed(keras.layers.Dense(3)),
        )
        for name in keras_he.layer_fans(built(layer, (4, 5)))
        if not name.endswith("recurrent_kernel")
    }
    assert set(re.findall(r"`(\S+/kernel)`", told)) == named


def test_the_taps_that_an_input_unit_meets_under_a_stride_are_counted():
    along = [len(range(phase, 3, 2)) for phase in range(2)]
    counts = [down * across for down in along for across in along]
    assert counts == [4, 2, 2, 1]
    assert {*map(str, counts)} <= numbers(FANS, "Fans")
    assert sum(counts) / 4 == TAPS


def test_the_loss_of_a_stack_of_depthwise_kernels_is_that_of_its_row():
    (row,) = [row for row in table(FANS, "Beside Keras") if row["layer"] == "`DepthwiseConv2D(3)`"]
    assert Fraction(row["forward"]) == Fraction(1, 64)
    assert {"30", "64", "54"} <= numbers(FANS, "Beside Keras")  # kernels, channels, decades


def test_the_version_that_tells_the_axes_is_told():
    versions = set(re.findall(r"\b3\.1\d\b", text(FANS)))
    assert len(versions) == 1
    running, since = (
        tuple(map(int, version.split(".")[:2])) for version in (keras.__version__, *versions)
    )
    assert (running >= since) == TOLD_AXES


@pytest.mark.parametrize("name", ["MultiHeadAttention", "GroupQueryAttention"])
def test_the_gate_of_attention_is_told(name):
    layer_class = getattr(keras.layers, name)
    if "use_gate" not in signature(layer_class).parameters:
        pytest.skip(f"Keras {keras.__version__} has no gate in attention")
    arguments, fed, _ = LAYERS[name]
    fans = keras_he.layer_fans(built(layer_class(**arguments, use_gate=True), fed))
    projections = [kernel for other, kernel, _ in SYMBOLIC if other == name]
    assert fans.keys() - {*projections} == {"gate/kernel"}
    assert {"gate/kernel", "use_gate=True"} <= spans(FANS, "Every layer with a kernel")
    assert fans["gate/kernel"] == fans["query/kernel"]


TODAY = rows(FANS, "Beside Keras", by=["layer", "kernel"])
BEFORE = rows(FANS, "Beside Keras", 1, by=["layer", "kernel"])


def assert_fans(row, axes):
    layer, name = example(code(row["layer"])), code(row["kernel"])
    variable = walk.layer_kernels(layer)[name].variable
    shape = ast.literal_eval(code(row["shape"]))
    right, theirs = pair(row["fans"]), pair(row["Keras' fans"])
    assert tuple(variable.shape) == shape
    assert keras_he.layer_fans(layer)[name] == right
    assert by_keras_rule(shape, axes) == theirs
    assert Fraction(row["forward"]) == right[0] / theirs[0]
    assert Fraction(row["backward"]) == right[1] / theirs[1]


def told_axes(row):
    return TOLD.get(code(row["layer"]), TOLD.get(code(row["kernel"]).partition("/")[0]))


@pytest.mark.parametrize("row", TODAY)
def test_the_row_of_an_example_has_its_fans(row):
    assert_fans(row, told_axes(row))


@pytest.mark.parametrize("row", BEFORE)
def test_the_row_of_an_example_before_axes_were_told_has_its_fans(row):
    assert_fans(row, None)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("row", TODAY)
def test_keras_draws_with_the_fans_that_are_told(row, mode):
    if told_axes(row) and not TOLD_AXES:
        pytest.skip(f"Keras {keras.__version__} does not tell the axes")
    fan = pair(row["Keras' fans"])[mode == "fan_out"]
    if row["layer"] == "`AdditiveAttention()`":  # it takes no initializer
        drawn = keras.initializers.VarianceScaling(2.0, mode, seed=1)((512,))
    else:
        layer = example(code(row["layer"]), mode=mode)
        drawn = walk.layer_kernels(layer)[code(row["kernel"])].variable
    assert_variance(drawn, 2 / float(fan), "truncated_normal")


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("row", BEFORE)
def test_keras_draws_with_the_fans_of_the_shape_where_no_axes_are_told(row, mode):
    fan = pair(row["Keras' fans"])[mode == "fan_out"]
    initializer = keras.initializers.VarianceScaling(2.0, mode, seed=1)
    drawn = initializer(ast.literal_eval(code(row["shape"])))
    assert_variance(drawn, 2 / float(fan), "truncated_normal")


@pytest.mark.parametrize("row", rows(FANS, "What to write", by=["layer", "argument"]))
def test_what_to_write_draws_with_the_right_fans(row):
    written, argument = code(row["layer"]), code(row["argument"])
    if "Attention" in written and not TOLD_AXES:
        pytest.skip(f"Keras {keras.__version__} does not tell the axes")
    layer = example(written, argument)
    keyword, _, value = argument.partition("=")
    initializer = keras.initializers.get(eval(value, CLASSES))
    kernels = {
        name: kernel.variable
        for name, kernel in walk.layer_kernels(layer).items()
        if name.rpartition("/")[2] in INITIALIZERS[keyword]
    }
    assert kernels
    linear = "linear" in value or keyword == "recurrent_initializer"
    for name, variable in kernels.items():
        variance = (1 if linear else 2) / getattr(
            keras_he.layer_fans(layer)[name], initializer.mode
        )
        if keyword != "recurrent_initializer":
            assert_variance(variable, variance, "normal")
            continue
        units, columns = variable.shape
        for gate in np.split(keras.ops.convert_to_numpy(variable), columns // units, axis=1):
            np.testing.assert_allclose(gate.T @ gate, np.eye(units), atol=1e-5)


def test_what_to_write_is_told_for_layers_of_the_comparison():
    written = {row["layer"] for row in table(FANS, "What to write")}
    compared = {row["layer"] for row in table(FANS, "Beside Keras")}
    assert {layer.strip("`") for layer in compared - written} == {
        "DepthwiseConv2D(3, strides=2)",  # as without strides
        "AdditiveAttention()",  # takes no initializer
        "ReversibleEmbedding(1000, 64, False)",  # takes one for both kernels
    }
    assert written <= compared


def test_a_string_is_enough_for_an_einsum_whose_axes_are_told():
    if not TOLD_AXES:
        pytest.skip(f"Keras {keras.__version__} does not tell the axes")
    written = 'EinsumDense("ab,bcd->acd", (8, 16))'
    assert_variance(example(written, 'kernel_initializer="he_relu"').kernel, 2 / 64, "normal")


def test_keras_defaults_of_an_lstm_count_its_gates_as_one_kernel():
    layer = built(keras.layers.LSTM(128), (10, 64))
    assert_variance(layer.cell.kernel, GLOROT_ALL_GATES**2, "uniform")
    assert {"1/512", "1/128"} <= numbers(FANS, "What to write")
    assert mean_square(layer.cell.recurrent_kernel)[0] == pytest.approx(1 / 512, rel=1e-5)
    one_gate = keras.initializers.Orthogonal(seed=1)((128, 128))
    assert mean_square(one_gate)[0] == pytest.approx(1 / 128, rel=1e-5)


# docs/audit.md

AUDIT = "docs/audit.md"


def test_every_verdict_and_every_threshold_is_told():
    names = [code(row["verdict"]) for row in table(AUDIT, "Verdicts")]
    assert names == list(verdicts.VERDICT_NAMES)
    told = {code(row["name"]): float(row["default"]) for row in table(AUDIT, "Thresholds")}
    assert told == verdicts.THRESHOLDS
    assert all(row["reason"] for row in table(AUDIT, "Thresholds"))


def test_the_share_of_a_normal_signal_where_tanh_is_flat_is_as_told():
    edge = math.acosh(math.sqrt(20.0))  # where 1 - tanh² is a twentieth
    assert 100 * math.erfc(edge / math.sqrt(2.0)) == pytest.approx(3.0, abs=0.1)


# Every document


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_string_is_registered_and_every_name_exists(document):
    strings = set(re.findall(r"\bhe_[a-z0-9_]+\b", text(document)))
    assert strings <= {*keras_he.names(), "he_normal", "he_uniform"}
    for name in re.findall(r"\bkeras_he\.(\w+)", text(document)):
        assert hasattr(keras_he, name), name
    for module, name in re.findall(
        r"\bkeras\.(layers|activations|initializers|ops)\.(\w+)", text(document)
    ):
        assert hasattr(getattr(keras, module), name), name
    for name in re.findall(r"\bKaiming[A-Z]\w+", text(document)):
        assert name in keras_he.__all__, name


def test_every_layer_that_is_named_exists():
    named = re.findall(r"`([A-Z]\w*[a-z]\w*)(?:\(.*?\))?`", text(FANS))
    assert {name for name in named if not hasattr(keras.layers, name)} == {"VarianceScaling"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_blocks_of_python_run_and_print_what_they_say(document, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layers, "RULES", dict(layers.RULES))  # for what a block registers
    blocks = re.findall(r"^```python\n(.*?)^```$", text(document), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    names = {"__name__": "document"}
    for block in blocks:
        if not block.startswith(">>> "):
            exec(compile(block, document, "exec"), names)
            continue
        test = doctest.DocTestParser().get_doctest(block, names, document, document, 0)
        said = []
        result = doctest.DocTestRunner().run(test, out=said.append, clear_globs=False)
        assert not result.failed, "".join(said)
        names = test.globs


@pytest.mark.parametrize("name", keras_he.__all__)
def test_the_example_of_a_docstring_prints_what_it_says(name, monkeypatch):
    monkeypatch.setattr(layers, "RULES", dict(layers.RULES))
    monkeypatch.setattr("keras_he.passes.model_checks._PATIENCE", math.inf)  # no bar, however slow
    said = []
    for test in doctest.DocTestFinder().find(getattr(keras_he, name), name, globs={}):
        result = doctest.DocTestRunner().run(test, out=said.append)
        assert not result.failed, "".join(said)


def test_the_citation_has_the_version_of_the_package():
    if not (ROOT / "CITATION.cff").exists():  # the wheel is tested without it
        pytest.skip("not here")
    assert re.findall(r"^version: (.*)$", text("CITATION.cff"), re.MULTILINE) == [
        keras_he.__version__
    ]


# Installing: keras_he is on no package index yet


@pytest.mark.parametrize(
    "path",
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")),
        *sorted(path for path in ROOT.glob("docs/*.md")),
        *sorted(path for path in ROOT.glob("*/**/*.py") if path.parts[len(ROOT.parts)][0] != "."),
        *sorted(path for path in ROOT.glob("examples/**/*.md")),
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_line_installs_keras_he_from_an_index(path):
    if not path.exists():  # the wheel is tested without them
        pytest.skip("not here")
    wrong = re.findall(r"install [^\n`#]*[\"' ]keras[-_]he\b.*", path.read_text(encoding="utf-8"))
    assert wrong == []


def test_the_readme_installs_each_backend_from_a_checkout():
    commands = section(README, "Install").splitlines()
    for backend in ("tensorflow", "jax", "torch"):
        assert f'$ python -m pip install ".[{backend}]"' in commands
    for backend in ("jax", "torch"):
        assert f"$ export KERAS_BACKEND={backend}" in commands
