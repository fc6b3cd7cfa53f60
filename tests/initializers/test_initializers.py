"""The initializers: the right std for every string and dtype, right fans, equal draws."""

import hashlib
import math

import keras
import numpy as np
import pytest
from bounds import assert_law
from oracle import dense_fans, fill_with_ones, spatial_fans

import keras_he

BACKEND = keras.backend.backend()
CLASSES = {
    "normal": keras_he.KaimingNormal,
    "uniform": keras_he.KaimingUniform,
    "truncated_normal": keras_he.KaimingTruncatedNormal,
    "orthogonal": keras_he.KaimingOrthogonal,
}
# Slopes of the strings, by hand: second moments are (1 + a²) / 2.
SLOPES = {"linear": 1.0, "relu": 0.0, "leaky_relu": 0.2, "prelu": 0.25}
DTYPES = ["float32", "bfloat16", "float16", "float64"]
if BACKEND == "jax":
    DTYPES.remove("float64")  # JAX has it only after `jax_enable_x64`


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor).astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", ["normal", "uniform", "truncated_normal"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("activation", SLOPES)
def test_strings_have_the_right_standard_deviation(activation, mode, law, dtype):
    suffix = {"normal": "", "uniform": "_uniform", "truncated_normal": "_truncated"}[law]
    mode_suffix = "" if mode == "fan_in" else f"_{mode}"
    keras.utils.set_random_seed(3)  # fixes the seed that an unseeded initializer takes
    initializer = keras.initializers.get(f"he_{activation}{suffix}{mode_suffix}")
    fan = {"fan_in": 512, "fan_out": 256, "fan_avg": 384}[mode]
    std = math.sqrt(2 / (1 + SLOPES[activation] ** 2) / fan)
    kernel = initializer((512, 256), dtype=dtype)
    assert keras.backend.standardize_dtype(kernel.dtype) == dtype
    assert_law(numbers(kernel), law, std, dtype)


def test_he_prelu_has_the_papers_standard_deviation():
    keras.utils.set_random_seed(4)
    kernel = keras.initializers.get("he_prelu")((512, 512))
    assert_law(numbers(kernel), "normal", math.sqrt(2 / (1 + 0.25**2) / 512))


@pytest.mark.parametrize("activation", SLOPES)
def test_orthogonal_strings_have_the_right_mean_square(activation):
    kernel = numbers(keras.initializers.get(f"he_{activation}_orthogonal")((64, 32)))
    expected = 2 / (1 + SLOPES[activation] ** 2) / 64
    assert np.mean(kernel**2) == pytest.approx(expected, rel=1e-5)


def test_fan_avg_is_the_mean_of_both_conditions_not_of_the_fans():
    """tanh has unequal moments, E[f²] = 0.394294 and E[f'²] = 0.464403 (DESIGN's integrals)."""
    initializer = keras_he.KaimingOrthogonal("tanh", "fan_avg", seed=1)
    mean_square = np.mean(numbers(initializer((400, 100))) ** 2)
    assert mean_square == pytest.approx(2 / (400 * 0.394294 + 100 * 0.464403), rel=1e-5)


# The digest of a float32 kernel of shape (3, 5, 64, 65) and seed 7, equal on every backend, in
# every process, on every number of threads. The orthogonal law depends on LAPACK: digits of it.
DIGESTS = {
    "normal": "5e8043ceb8795ff1",
    "uniform": "98c6270e3f46ee64",
    "truncated_normal": "f2f7add1221bb5d6",
}


def kernel_digest(law):
    kernel = CLASSES[law]("prelu", seed=7)((3, 5, 64, 65))
    return hashlib.sha256(keras.ops.convert_to_numpy(kernel).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("threads", ["1", "2", "7"])
@pytest.mark.parametrize("law", DIGESTS)
def test_kernels_are_bit_equal_on_every_backend(monkeypatch, law, threads):
    monkeypatch.setenv("KERAS_HE_NUM_THREADS", threads)
    assert kernel_digest(law) == DIGESTS[law]


def test_a_fresh_process_draws_the_same(run_python):
    code = """
import hashlib, keras, keras_he
for cls in (keras_he.KaimingNormal, keras_he.KaimingUniform, keras_he.KaimingTruncatedNormal):
    kernel = keras.ops.convert_to_numpy(cls("prelu", seed=7)((3, 5, 64, 65)))
    print(hashlib.sha256(kernel.tobytes()).hexdigest()[:16])
"""
    assert run_python(code, KERAS_HE_NUM_THREADS="3").split() == list(DIGESTS.values())


def test_orthogonal_kernels_are_equal_on_every_backend():
    kernel = numbers(keras_he.KaimingOrthogonal("linear", seed=7)((5, 4))).ravel()
    np.testing.assert_allclose(kernel[:4], ORTHOGONAL, rtol=1e-6)


ORTHOGONAL = [-0.35492876172065735, -0.05020897090435028, 0.3557650148868561, -0.048137009143829346]


@pytest.mark.parametrize("law", CLASSES)
def test_calls_with_one_seed_are_equal_and_with_a_generator_not(law):
    for seed in (5, None):
        initializer = CLASSES[law](seed=seed)
        assert np.array_equal(numbers(initializer((8, 8))), numbers(initializer((8, 8))))
    moving = CLASSES[law](seed=keras.random.SeedGenerator(5))
    first, second = numbers(moving((8, 8))), numbers(moving((8, 8)))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, numbers(CLASSES[law](seed=5)((8, 8))))


def test_unseeded_initializers_differ_and_follow_the_global_seed():
    keras.utils.set_random_seed(1)
    first, second = (numbers(keras_he.KaimingNormal()((8, 8))) for _ in range(2))
    assert not np.array_equal(first, second)
    keras.utils.set_random_seed(1)
    assert np.array_equal(first, numbers(keras_he.KaimingNormal()((8, 8))))


def used_fans(monkeypatch, build):
    """Returns the fans that initializers used, read off the std they drew with, for both modes."""
    fans = []
    for mode in ("fan_in", "fan_out"):
        drawn = []

        def draw(self, shape, std, key, dtype, drawn=drawn):
            drawn.append(std)
            return lambda region: np.zeros(shape, "float32")

        monkeypatch.setattr(keras_he.KaimingNormal, "_draw", draw)
        layer = build(mode)
        fans.append([std**-2 for std in drawn])
    return layer, list(zip(*fans, strict=True))


CONVOLUTIONS = [
    (keras.layers.Conv1D, {"filters": 8, "kernel_size": (5,), "strides": (2,)}),
    (keras.layers.Conv1D, {"filters": 8, "kernel_size": (3,), "dilation_rate": (3,)}),
    (keras.layers.Conv2D, {"filters": 8, "kernel_size": (3, 2), "groups": 4}),
    (keras.layers.Conv2D, {"filters": 8, "kernel_size": (3, 3), "strides": (3, 3), "groups": 2}),
    (keras.layers.Conv3D, {"filters": 6, "kernel_size": (2, 3, 1), "strides": (2, 2, 2)}),
    (keras.layers.DepthwiseConv1D, {"kernel_size": (3,), "depth_multiplier": 2}),
    (keras.layers.DepthwiseConv2D, {"kernel_size": (3, 3), "strides": (2, 2)}),
    (keras.layers.Conv1DTranspose, {"filters": 6, "kernel_size": (4,), "strides": (1,)}),
    (keras.layers.Conv2DTranspose, {"filters": 6, "kernel_size": (3, 4), "strides": (2, 2)}),
    (keras.layers.Conv2DTranspose, {"filters": 6, "kernel_size": (2, 5), "strides": (3, 3)}),
    (keras.layers.Conv3DTranspose, {"filters": 6, "kernel_size": (3, 3, 3), "strides": (3, 3, 3)}),
]


@pytest.mark.parametrize(
    ("layer_class", "arguments"), CONVOLUTIONS, ids=lambda v: getattr(v, "__name__", "")
)
def test_convolutions_are_drawn_with_the_oracles_fans(monkeypatch, layer_class, arguments):
    transposed = "Transpose" in layer_class.__name__
    geometry = "transpose" if transposed else None
    role = "kernel"
    if "Depthwise" in layer_class.__name__:
        geometry, role = "depthwise", "depthwise"
    strides = arguments.get("strides", (1,) * len(arguments["kernel_size"]))

    def build(mode):
        layer = layer_class(**arguments)
        initializer = keras_he.KaimingNormal(
            "linear", mode, geometry=geometry, strides=strides, groups=arguments.get("groups", 1)
        )
        setattr(layer, f"{role}_initializer", initializer)
        layer.build((None, *[16] * len(strides), 8))
        return layer

    layer, fans = used_fans(monkeypatch, build)
    fill_with_ones(layer, "kernel")
    dilation = arguments.get("dilation_rate", (1,) * len(strides))
    expected = spatial_fans(layer, arguments["kernel_size"], 8, strides, dilation, transposed)
    assert fans == [pytest.approx(expected, rel=1e-6)]


def test_dense_is_drawn_with_the_oracles_fans(monkeypatch):
    def build(mode):
        layer = keras.layers.Dense(7, kernel_initializer=keras_he.KaimingNormal("linear", mode))
        layer.build((None, 48))
        return layer

    layer, fans = used_fans(monkeypatch, build)
    fill_with_ones(layer, "kernel")
    assert fans == [pytest.approx(dense_fans(layer, (3, 48)))]


@pytest.mark.newest  # Keras gives its kernels' axes to initializers from 3.15 on
@pytest.mark.parametrize(
    ("equation", "shape", "output"),
    [("abc,cde->abde", (3, 4, 5), (4, 2, 6)), ("abcd,cde->abe", (3, 4, 2, 5), (4, 6))],
)
def test_einsum_is_drawn_with_the_oracles_fans(monkeypatch, equation, shape, output):
    def build(mode):
        initializer = keras_he.KaimingNormal("linear", mode)
        layer = keras.layers.EinsumDense(equation, output, kernel_initializer=initializer)
        layer.build((None, *shape[1:]))
        return layer

    layer, fans = used_fans(monkeypatch, build)
    fill_with_ones(layer, "kernel")
    assert fans == [pytest.approx(dense_fans(layer, shape), rel=1e-6)]


@pytest.mark.newest
@pytest.mark.parametrize("attention", ["multi_head", "grouped_query"])
def test_attention_is_drawn_with_the_oracles_fans(monkeypatch, attention):
    def build(mode):
        initializer = keras_he.KaimingNormal("linear", mode)
        if attention == "multi_head":
            layer = keras.layers.MultiHeadAttention(3, 4, kernel_initializer=initializer)
        else:
            layer = keras.layers.GroupQueryAttention(4, 4, 2, kernel_initializer=initializer)
        layer.build((None, 5, 6), (None, 5, 6))
        return layer

    layer, fans = used_fans(monkeypatch, build)
    expected = []
    for name in ("query", "key", "value", "attention_output"):
        dense = next(inner for inner in layer._flatten_layers() if inner.name == name)
        fill_with_ones(dense, "kernel")
        expected.append(
            dense_fans(
                dense, (2, 5, *dense.kernel.shape[: -2 if name != "attention_output" else -1])
            )
        )
    assert sorted(fans) == [pytest.approx(fan, rel=1e-6) for fan in sorted(expected)]


@pytest.mark.newest
def test_projections_of_one_unseeded_initializer_differ():
    layer = keras.layers.MultiHeadAttention(2, 4, kernel_initializer="he_linear")
    layer.build((None, 3, 8), (None, 3, 8))
    kernels = [numbers(dense.kernel) for dense in (layer.query_dense, layer.key_dense)]
    assert not np.array_equal(*kernels)


def test_per_channel_slopes_count_by_their_root_mean_square():
    one = keras_he.KaimingNormal("prelu", negative_slope=[0.1, 0.5, -0.7])
    # (0.01 + 0.25 + 0.49) / 3 = 0.25
    assert one.negative_slope == pytest.approx(0.5)
    assert one.gain == pytest.approx(math.sqrt(2 / 1.25))


LAYERS = {
    "relu": (keras.layers.ReLU(), math.sqrt(2)),
    "relu with a slope": (keras.layers.ReLU(negative_slope=0.5), math.sqrt(2 / 1.25)),
    "leaky": (keras.layers.LeakyReLU(), math.sqrt(2 / 1.09)),
    "leaky 0.1": (keras.layers.LeakyReLU(0.1), math.sqrt(2 / 1.01)),
    "prelu as Keras starts it": (keras.layers.PReLU(), math.sqrt(2)),
    "prelu 0.25": (keras.layers.PReLU(keras.initializers.Constant(0.25)), math.sqrt(2 / 1.0625)),
    "prelu of ones": (keras.layers.PReLU("ones"), 1.0),
    "activation": (keras.layers.Activation("linear"), 1.0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_activation_layers_give_their_gain(name):
    layer, gain = LAYERS[name]
    assert keras_he.KaimingNormal(layer).gain == pytest.approx(gain, rel=1e-12)


def test_a_built_prelu_counts_with_its_present_slopes():
    layer = keras.layers.PReLU()
    layer.build((None, 3))
    layer.alpha.assign(np.array([0.1, 0.5, 0.7], "float32"))
    assert keras_he.KaimingNormal(layer).negative_slope == pytest.approx(0.5, rel=1e-6)


def test_slopes_in_bfloat16_count_as_the_numbers_they_are():
    layer = keras.layers.PReLU(keras.initializers.Constant(0.25), dtype="bfloat16")
    layer.build((None, 3))
    assert keras_he.KaimingNormal(layer).negative_slope == 0.25


@pytest.mark.parametrize("law", ["", "_orthogonal"])
def test_compiled_code_draws_what_eager_code_draws(law):
    initializer = keras.initializers.get({"class_name": f"he_gelu{law}", "config": {"seed": 3}})
    eager = keras.ops.convert_to_numpy(initializer((16, 8)))
    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch compiles with a C++ compiler of the machine's")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(lambda: initializer((16, 8)))()
    else:
        import jax

        compiled = jax.jit(lambda: initializer((16, 8)))()
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(compiled), eager)


def test_a_large_kernel_is_drawn_after_the_main_thread_has_ended(run_python):
    code = """
import threading, time
import keras, keras_he

def train():
    threading.main_thread().join()
    time.sleep(0.5)
    print(keras_he.KaimingNormal(seed=1)((1024, 1024)).shape)

threading.Thread(target=train).start()
"""
    assert "1024" in run_python(code, KERAS_HE_NUM_THREADS="2")


class Unbuilt(keras.Model):
    """Makes its kernel when it is first called, which `fit` does with symbols."""

    def __init__(self):
        super().__init__()
        seed = keras.random.SeedGenerator(5)
        self.dense = keras.layers.Dense(4, kernel_initializer=keras_he.KaimingNormal(seed=seed))

    def call(self, x):
        return self.dense(x)


def fit(model):
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 3), "float32"), np.ones((8, 4), "float32"), verbose=0)


def test_a_generator_in_a_model_that_fit_builds_draws_or_is_refused_with_the_way_out():
    if BACKEND != "jax":
        fit(Unbuilt())
        return
    with pytest.raises(ValueError, match="call the model once on a batch"):
        fit(Unbuilt())


def test_the_way_out_works():
    model = Unbuilt()
    model(np.ones((1, 3), "float32"))
    fit(model)


def test_an_unbuilt_prelu_with_random_slopes_is_refused():
    layer = keras.layers.PReLU("random_normal")
    with pytest.raises(keras_he.KerasHeError, match="[Bb]uild it first"):
        keras_he.KaimingNormal(layer)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "linear"])
def test_keras_functions_are_known_by_name(name):
    function = getattr(keras.activations, name)
    assert (
        keras_he.KaimingNormal(function).get_config() == keras_he.KaimingNormal(name).get_config()
    )


def test_a_callable_becomes_its_gain():
    initializer = keras_he.KaimingNormal(lambda x: 3 * x, seed=1)
    assert initializer.gain == pytest.approx(1 / 3, rel=1e-6)
    assert list(initializer.get_config()) == ["gain", "seed"]
    assert "keras_he.KaimingNormal" not in repr(initializer)


def test_unbuilt_layers_draw_when_they_are_built_in_a_custom_layer():
    class Own(keras.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight((shape[-1], 256), initializer="he_relu", name="w")

        def call(self, x):
            return keras.ops.matmul(x, self.w)

    keras.utils.set_random_seed(2)
    layer = Own()
    layer(np.zeros((1, 512), "float32"))
    assert_law(numbers(layer.w), "normal", math.sqrt(2 / 512))
