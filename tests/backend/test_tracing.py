"""Kernels made in compiled code, in many threads and after a fork are those made anywhere else."""

import logging
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

import keras_he

BACKEND = keras.backend.backend()
LAWS = {
    "normal": keras_he.KaimingNormal,
    "uniform": keras_he.KaimingUniform,
    "truncated normal": keras_he.KaimingTruncatedNormal,
    "orthogonal": keras_he.KaimingOrthogonal,
}
X = np.random.default_rng(0).standard_normal((4, 64)).astype("float32")
WAY_OUT = "call the model once on a batch"

on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch")


def numbers(value):
    return keras.ops.convert_to_numpy(value).astype("float64")


def dense(seed=1, units=512, **arguments):
    """Returns a layer with a kernel alone: Keras' zeros for a bias do not outlive JAX's traces."""
    initializer = keras_he.KaimingNormal(seed=seed)
    return keras.layers.Dense(units, kernel_initializer=initializer, use_bias=False, **arguments)


def expected(units=512, seed=1):
    layer = dense(seed, units)
    layer.build(X.shape)
    return numbers(layer.kernel)


def generator_initializer():
    return keras_he.KaimingNormal(seed=keras.random.SeedGenerator(3))


@on_tensorflow
@pytest.mark.parametrize("size", [8, 256])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_function_of_tensorflow_draws_what_eager_code_draws(law, size, jit_compile):
    import tensorflow as tf

    draw = LAWS[law](seed=3)
    function = tf.function(lambda: draw((size, size)), jit_compile=jit_compile)
    eager = numbers(draw((size, size)))
    assert np.array_equal(numbers(function()), eager)
    assert not np.array_equal(numbers(LAWS[law](seed=4)((size, size))), eager)


@on_tensorflow
def test_a_large_kernel_does_not_stand_in_the_graph():
    import tensorflow as tf

    draw = keras_he.KaimingNormal(seed=3)
    graph = tf.function(lambda: draw((1024, 1024))).get_concrete_function().graph
    assert graph.as_graph_def().ByteSize() < 10_000  # of 4 MiB


@on_tensorflow
def test_autograph_reads_the_initializers_without_complaint():
    import tensorflow as tf

    complaints = []
    handler = logging.Handler()
    handler.emit = lambda record: complaints.append(record.getMessage())
    logger = logging.getLogger("tensorflow")
    logger.addHandler(handler)
    try:
        tf.function(lambda: keras_he.KaimingUniform(seed=3)((8, 8)))()
        tf.function(lambda: dense()(tf.constant(X)))
    finally:
        logger.removeHandler(handler)
    assert not complaints


@on_tensorflow
@pytest.mark.parametrize("units", [8, 512])
def test_a_layer_built_in_a_function_of_tensorflow_has_its_values(units):
    import tensorflow as tf

    layer = dense(units=units)
    function = tf.function(lambda x: layer(x))
    first = numbers(function(tf.constant(X)))
    assert np.array_equal(numbers(layer.kernel), expected(units))
    np.testing.assert_allclose(first, X @ expected(units), rtol=1e-4, atol=1e-4)
    assert np.array_equal(numbers(function(tf.constant(X))), first)


@on_tensorflow
def test_tensorflow_makes_no_variables_from_a_large_kernel_without_a_call():
    """Where this fails TensorFlow has learned to, and docs/devices.md says that it cannot."""
    import tensorflow as tf

    x = tf.TensorSpec((None, 64), "float32")
    small, large = dense(units=8), dense(units=512)
    tf.function(lambda x: small(x)).get_concrete_function(x)
    assert np.array_equal(numbers(small.kernel), expected(8))
    with pytest.raises(Exception, match="Unable to lift"):
        tf.function(lambda x: large(x)).get_concrete_function(x)


@on_tensorflow
def test_a_generator_in_a_function_of_tensorflow_is_refused_with_the_way_out():
    import tensorflow as tf

    draw = generator_initializer()
    before = numbers(draw.seed.state)
    with pytest.raises(keras_he.KerasHeError, match=WAY_OUT):
        tf.function(lambda: draw((8, 8)), autograph=False)()
    assert np.array_equal(numbers(draw.seed.state), before)


def transforms():
    """Returns how JAX traces a function of an array, by name."""
    if BACKEND != "jax":
        return {}
    import jax

    return {
        "jit": jax.jit,
        "eval_shape": lambda f: lambda x: jax.eval_shape(f, x),
        "make_jaxpr": jax.make_jaxpr,
        "checkpoint": jax.checkpoint,
        "grad": lambda f: jax.grad(lambda x: f(x).sum()),
        "scan": lambda f: lambda x: jax.lax.scan(lambda c, _: (c, f(c)), x, length=2)[1],
    }


@on_jax
@pytest.mark.parametrize("name", transforms())
@pytest.mark.parametrize("units", [8, 512])
def test_a_layer_built_while_jax_traces_has_numbers_and_outlives_the_trace(name, units):
    import jax

    layer = dense(units=units)
    with jax.checking_leaks():
        transforms()[name](lambda x: layer(x))(X)
    kernel = layer.kernel.value
    assert not isinstance(kernel, jax.core.Tracer)
    assert np.array_equal(numbers(kernel), expected(units))
    np.testing.assert_allclose(numbers(layer(X)), X @ expected(units), rtol=1e-4, atol=1e-4)


@on_jax
@pytest.mark.parametrize("law", LAWS)
def test_a_batched_or_compiled_draw_of_jax_is_the_eager_one(law):
    import jax

    draw = LAWS[law](seed=3)
    eager = numbers(draw((64, 8)))
    identity = np.eye(64, dtype="float32")
    for transform in (jax.jit, jax.vmap):
        assert np.array_equal(numbers(transform(lambda x: x @ draw((64, 8)))(identity)), eager)


@on_jax
@pytest.mark.parametrize("name", ["jit", "eval_shape", "make_jaxpr", "checkpoint", "scan"])
def test_a_generator_in_traced_code_of_jax_is_refused_and_holds_no_tracer(name):
    draw = generator_initializer()
    before = numbers(draw.seed.state)
    with pytest.raises(keras_he.KerasHeError, match=WAY_OUT):
        transforms()[name](lambda x: x @ draw((64, 8)))(X)
    assert np.array_equal(numbers(draw.seed.state), before)
    assert np.array_equal(numbers(draw((64, 8))), numbers(generator_initializer()((64, 8))))


@on_jax
def test_a_generator_draws_where_jax_only_differentiates():
    import jax

    draw, again = generator_initializer(), generator_initializer()
    found = jax.grad(lambda x: (x @ draw((64, 8))).sum())(X)
    wanted = np.tile(numbers(again((64, 8))).sum(axis=1), (4, 1))
    np.testing.assert_allclose(numbers(found), wanted, rtol=1e-5, atol=1e-5)


def compiled(function, **arguments):
    """Returns what `torch.compile` makes of a function, with nothing remembered of others."""
    import torch

    torch._dynamo.reset()
    return torch.compile(function, backend="eager", **arguments)


@on_torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("law", LAWS)
def test_code_that_pytorch_compiles_draws_what_eager_code_draws(law, dtype):
    import torch

    draw = LAWS[law](seed=3)
    zeros = torch.zeros((33, 7), dtype=getattr(torch, dtype))
    found = compiled(lambda x: x + draw((33, 7), dtype))(zeros)
    assert torch.equal(found, draw((33, 7), dtype).detach())
    assert not torch.equal(found, LAWS[law](seed=4)((33, 7), dtype).detach())


@on_torch
# PyTorch's compiler asks every tensor that it meets for a gradient, and warns of what it does.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_layer_built_in_code_that_pytorch_compiles_has_its_values():
    import torch

    layer = dense(units=64)
    compiled(lambda x: layer(x))(torch.tensor(X))
    assert np.array_equal(numbers(layer.kernel), expected(64))


@on_torch
def test_a_generator_moves_on_in_code_that_pytorch_compiles():
    import torch

    draw, again = generator_initializer(), generator_initializer()
    function = compiled(lambda x: x + draw((8, 8)))
    found = [numbers(function(torch.zeros((8, 8)))) for _ in range(2)]
    assert np.array_equal(found, [numbers(again((8, 8))) for _ in range(2)])
    assert not np.array_equal(*found)


@on_torch
def test_one_graph_of_pytorch_refuses_a_draw_with_the_way_out():
    import torch

    draw = keras_he.KaimingNormal(seed=1)
    function = compiled(lambda x: x + draw((8, 8)), fullgraph=True)
    with pytest.raises(Exception, match="build the layer before it is compiled"):
        function(torch.zeros((8, 8)))


def test_a_layer_made_in_a_stateless_scope_gets_its_values_behind_it():
    layer = dense()
    with keras.StatelessScope():
        layer.build(X.shape)
        assert np.array_equal(numbers(layer.kernel.value), expected())
    assert np.array_equal(numbers(layer.kernel.value), expected())


def test_a_layer_that_is_rematerialized_has_its_values():
    with keras.RematScope(mode="full"):
        layer = dense()
    layer(X)
    assert np.array_equal(numbers(layer.kernel), expected())


def test_a_stateless_call_sees_the_values():
    layer = dense()
    layer.build(X.shape)
    state = [variable.value for variable in layer.trainable_variables]
    found, _ = layer.stateless_call(state, [], keras.ops.convert_to_tensor(X))
    np.testing.assert_allclose(numbers(found), X @ expected(), rtol=1e-4, atol=1e-4)


def network(seed):
    units = [(768, keras_he.KaimingNormal), (256, keras_he.KaimingUniform)]
    layers = [keras.layers.Dense(n, "relu", kernel_initializer=cls(seed=seed)) for n, cls in units]
    last = keras.layers.Dense(8, kernel_initializer=keras_he.KaimingOrthogonal(seed=seed))
    return keras.Sequential([keras.Input((512,)), *layers, last])


def test_many_threads_build_what_one_thread_builds(monkeypatch):
    monkeypatch.setenv("KERAS_HE_NUM_THREADS", "2")  # each draw has threads of its own
    seeds = [seed % 4 for seed in range(24)]
    alone = [network(seed).get_weights() for seed in range(4)]
    with ThreadPoolExecutor(12) as pool:
        models = list(pool.map(network, seeds))
    for seed, model in zip(seeds, models, strict=True):
        for weight, wanted in zip(model.get_weights(), alone[seed], strict=True):
            assert np.array_equal(weight, wanted)
    assert not np.array_equal(alone[0][0], alone[1][0])


def test_many_threads_with_one_initializer_get_what_one_thread_gets():
    draw = keras_he.KaimingNormal(seed=5)
    shapes = [(n, 300) for n in (10, 400, 900)] * 8
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(draw, shapes))
    for shape, kernel in zip(shapes, found, strict=True):
        assert np.array_equal(numbers(kernel), numbers(draw(shape)))


def test_unseeded_initializers_of_many_threads_all_differ():
    with ThreadPoolExecutor(12) as pool:
        kernels = list(pool.map(lambda _: keras_he.KaimingNormal()((8, 8)), range(48)))
    assert len({numbers(kernel).tobytes() for kernel in kernels}) == 48


FORK = """
import hashlib, multiprocessing, os, warnings
# Backends have threads of their own, of which a fork may not use any; the sampler needs none.
warnings.simplefilter("ignore")
from keras_he.sampling.stream import draw
from keras_he.sampling.regions import draw_region

def digest(seed):
    whole = draw("normal", (1024, 1024), 1.0, seed, "float32", threads=2)
    part = draw_region("normal", (1024, 1024), (slice(0, 9), slice(3, 8)), 1.0, seed, "float32")
    return hashlib.sha256(whole.tobytes() + part.tobytes()).hexdigest()

def tell(pipe, seed):
    pipe.send(digest(seed))
    pipe.close()
    os._exit(0)

context = multiprocessing.get_context("fork")
wanted = [digest(seed) for seed in range(3)]  # threads have run before the fork
found = []
for seed in range(3):
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=tell, args=(theirs, seed))
    child.start()
    assert ours.poll(60), "the child hangs"
    found.append(ours.recv())
    child.join(60)
print(found == wanted, len(set(found)))
"""


def test_a_forked_process_draws_the_same(run_python):
    assert run_python(FORK).split() == ["True", "3"]
