"""Kernels on many devices of JAX: each process draws its own shards, once, and the right values."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import free_ports, run_together

import keras_he
from keras_he.errors import InvalidArgument
from keras_he.sampling import laws, regions
from keras_he.sampling import stream as sampling
from keras_he.sampling.regions import draw_region
from keras_he.sampling.stream import ALIGNMENT, draw

BACKEND = keras.backend.backend()
ELEMENTWISE = ("normal", "uniform", "truncated_normal")
ALL = slice(None)
REGIONS = {
    "the first axis": ((512, 700), (slice(64, 128), ALL)),
    "the last axis": ((700, 512), (ALL, slice(64, 128))),
    "both": ((700, 512), (slice(175, 350), slice(256, 512))),
    "none": ((70, 51), (ALL, ALL)),
    "odd starts and lengths": ((99, 101), (slice(1, 98), slice(33, 66))),
    "single elements": ((70000, 3), (ALL, slice(1, 2))),
    "far apart": ((40, 5000), (ALL, slice(7, 10))),
    "runs longer than a chunk": ((3, 150_001), (slice(1, 3), slice(5, 150_000))),
    "channels of a convolution": ((3, 3, 64, 96), (ALL, ALL, slice(8, 16), ALL)),
    "the middle of five axes": ((2, 3, 8, 5, 7), (ALL, slice(1, 3), slice(2, 6), ALL, slice(3, 4))),
    "nothing": ((8, 8), (slice(3, 3), ALL)),
    "an empty array": ((0, 8), (ALL, slice(0, 4))),
    "a scalar": ((), ()),
}


@pytest.mark.parametrize("law", ELEMENTWISE)
@pytest.mark.parametrize("name", REGIONS)
def test_a_region_has_the_values_that_it_has_in_the_whole(name, law):
    shape, region = REGIONS[name]
    expected = draw(law, shape, 0.3, 7, "float32")[region]
    values = draw_region(law, shape, region, 0.3, 7, "float32")
    assert values.shape == expected.shape
    assert np.array_equal(values, expected)
    assert values.flags.c_contiguous
    if expected.size:
        assert values.ctypes.data % ALIGNMENT == 0
        assert not np.array_equal(draw_region(law, shape, region, 0.3, 8, "float32"), expected)


@pytest.mark.parametrize("std", [0.3, 1e-25])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_region_is_rounded_as_the_whole_is(dtype, std):
    shape, region = REGIONS["odd starts and lengths"]
    expected = draw("normal", shape, std, 7, dtype)[region]
    values = draw_region("normal", shape, region, std, 7, dtype)
    assert values.dtype == expected.dtype
    assert np.array_equal(values, expected)


@st.composite
def shapes_and_regions(make):
    shape = make(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    limits = [sorted(make(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    return tuple(shape), tuple(slice(*pair) for pair in limits)


@settings(max_examples=100, deadline=None)
@given(shapes_and_regions(), st.integers(0, 20), st.integers(1, 50), st.integers(1, 50))
def test_any_region_cut_anywhere_has_its_values(given, gap, span, chunk):
    """With limits so small that every way of reading words is taken."""
    shape, region = given
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_GAP", gap)
        patch.setattr(regions, "_SPAN", span)
        patch.setattr(sampling, "_CHUNK", chunk)
        patch.setattr(sampling, "_BLOCK", 3 * chunk)
        values = draw_region("uniform", shape, region, 1.0, 3, "float32", threads=1)
    assert np.array_equal(values, draw("uniform", shape, 1.0, 3, "float32")[region])


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_no_region(threads):
    shape, region = (512, 4096), (ALL, slice(1000, 2000))
    expected = draw("normal", shape, 1.0, 3, "float32")[region]
    values = draw_region("normal", shape, region, 1.0, 3, "float32", threads=threads)
    assert np.array_equal(values, expected)


@pytest.mark.parametrize("name", REGIONS)
def test_of_a_region_no_other_element_is_drawn(monkeypatch, name):
    shape, region = REGIONS[name]
    drawn = []
    count_draws(monkeypatch.setitem, drawn)
    assert sum(drawn) == 0
    assert draw_region("normal", shape, region, 1.0, 3, "float32").size == sum(drawn)


def count_draws(replace, drawn):
    """Appends to `drawn` how many words become values, wherever that happens."""

    def counting(make):
        def made(std):
            fill = make(std)

            def counted(words, values, scratch):
                drawn.append(len(words))
                return fill.centre(words, values, scratch)

            return fill._replace(centre=counted)

        return made

    for law in ("normal", "uniform", "truncated_normal"):
        record = laws.LAWS[law]
        replace(laws.LAWS, law, record._replace(fill=counting(record.fill)))


def test_words_far_between_are_jumped_over(monkeypatch):
    read, make = [], regions.word_reader

    def counting(seed, shape):
        reader = make(seed, shape)

        def counted(first, count):
            read.append(count)
            return reader(first, count)

        return counted

    monkeypatch.setattr(regions, "word_reader", counting)
    draw_region("normal", (64, 10**6), (ALL, slice(500, 600)), 1.0, 1, "float32")
    assert sum(read) == 64 * 100


def test_a_region_of_too_large_a_std_is_refused():
    with pytest.raises(InvalidArgument, match="`std` must be small enough"):
        draw_region("normal", (8, 8), (slice(0, 4), ALL), 1e38, 1, "float32")


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has layouts")
def test_a_layout_is_refused_where_the_backend_has_none():
    with pytest.raises(keras_he.KerasHeError, match=f"`layout` must be None on the {BACKEND}"):
        keras_he.KaimingNormal()((8, 8), layout=("model", None))


@pytest.mark.skipif(BACKEND != "jax", reason="layouts of JAX")
@pytest.mark.parametrize("abstract", [True, False])
def test_a_layout_without_devices_is_refused(abstract):
    import jax

    layout = ("model", None)
    if abstract:
        mesh = jax.sharding.AbstractMesh((1,), ("model",))
        layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
    with pytest.raises(keras_he.KerasHeError, match="`layout` must be a `keras.distribution"):
        keras_he.KaimingNormal()((8, 8), layout=layout)


DEVICES = """
import json, math, os, sys, tempfile
import jax, keras, numpy as np
import keras_he
from keras_he.sampling import laws

DRAWN = []
count_draws(dict.__setitem__, DRAWN)
RESULTS = {}
CLASSES = [keras_he.KaimingNormal, keras_he.KaimingUniform, keras_he.KaimingTruncatedNormal,
           keras_he.KaimingOrthogonal]

def distribute(shape, axes):
    names = ("batch", "model")[-len(shape):]
    mesh = keras.distribution.DeviceMesh(shape, names, keras.distribution.list_devices("cpu"))
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*kernel"] = axes
    distribution = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name=names[0])
    distribution.auto_shard_dataset = False
    keras.distribution.set_distribution(distribution)
    return mesh

def whole(kernel):
    return keras.ops.convert_to_numpy(kernel).astype("float64")

def held(value):
    return sum({str(shard.index): shard.data.size for shard in value.addressable_shards}.values())

def built(initializer, dtype="float32", shape=(96, 64)):
    layer = keras.layers.Dense(shape[1], kernel_initializer=initializer, dtype=dtype)
    DRAWN.clear()
    layer.build((None, shape[0]))
    return layer.kernel.value, sum(DRAWN)

def told(value, drawn, expected, other):
    shards = all(np.array_equal(whole(shard.data), expected[shard.index])
                 for shard in value.addressable_shards)
    return dict(equal=shards, other=np.array_equal(expected, other), drawn=drawn,
                held=held(value), size=value.size, spec=list(value.sharding.spec),
                devices=len(value.sharding.device_set))
"""

ONE_PROCESS = """
def peak():
    with open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith("VmHWM")).split()[1])

def memory():
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
    layout = keras.distribution.TensorLayout(("batch", "model"), mesh)
    draw = keras_he.KaimingNormal(seed=1)
    draw((64, 64), layout=layout)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the highest is what is held now
    before = peak()
    kernel = draw((8192, 8192), layout=layout).block_until_ready()
    return (peak() - before) / kernel.nbytes

def compare(shape, axes, cls, dtype="float32"):
    expected = whole(cls(seed=1)((96, 64), dtype))
    other = whole(cls(seed=2)((96, 64), dtype))
    distribute(shape, axes)
    result = told(*built(cls(seed=1), dtype), expected, other)
    keras.distribution.set_distribution(None)
    return result

class Unbuilt(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(64, kernel_initializer=keras_he.KaimingNormal(seed=1))

    def call(self, x):
        return self.dense(x)

def network(seed=1):
    return keras.Sequential([
        keras.Input((96,)),
        keras.layers.Dense(64, "relu", kernel_initializer=keras_he.KaimingNormal(seed=seed)),
        keras.layers.Dense(8, kernel_initializer=keras_he.KaimingOrthogonal("relu", seed=seed)),
    ])

X = np.random.default_rng(0).standard_normal((16, 96)).astype("float32")
Y = X[:, :8] ** 2

def fit(model):
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model.fit(X, Y, epochs=3, batch_size=16, shuffle=False, verbose=0).history["loss"]

def models():
    alone, results = network(), {}
    first = [whole(v) for v in alone.weights]
    results["losses alone"] = fit(alone)
    alone = network()
    keras_he.initialize(alone, X, seed=4)
    given = [whole(v) for v in alone.weights]
    results["initialized losses alone"] = fit(alone)
    for name, shape, axes in [("last", (2, 4), (None, "model")), ("none", (2, 4), (None, None))]:
        distribute(shape, axes)
        model = network()
        kernel = model.layers[0].kernel
        results[f"{name}: built"] = all(
            np.array_equal(whole(v), w) for v, w in zip(model.weights, first))
        results[f"{name}: losses"] = fit(model)
        path = os.path.join(tempfile.mkdtemp(), "model.keras")
        model.save(path)
        again = keras.saving.load_model(path)
        results[f"{name}: loaded"] = all(
            np.array_equal(whole(v), whole(w)) for v, w in zip(model.weights, again.weights))
        results[f"{name}: loaded spec"] = list(again.layers[0].kernel.value.sharding.spec)
        model = network()
        DRAWN.clear()
        keras_he.initialize(model, X, seed=4)
        results[f"{name}: initialized"] = all(
            np.array_equal(whole(v), w) for v, w in zip(model.weights, given))
        results[f"{name}: initialized losses"] = fit(model)
        results[f"{name}: initialized spec"] = list(model.layers[0].kernel.value.sharding.spec)
        try:
            jax.jit(lambda x: network().layers[0](x))(X)
        except ValueError as error:
            results[f"{name}: built in jit"] = str(error)
        model = Unbuilt()
        model.compile("sgd", "mse")
        model.fit(X, np.ones((16, 64)), verbose=0, batch_size=16)
        results[f"{name}: unbuilt spec"] = list(model.dense.kernel.value.sharding.spec)
        keras.distribution.set_distribution(None)
    return results

def generators():
    draws = lambda: keras_he.KaimingNormal(seed=keras.random.SeedGenerator(5))
    one = draws()
    expected = [whole(one((96, 64))) for _ in range(2)]
    distribute((2, 4), (None, "model"))
    one = draws()
    values = [whole(built(one)[0]) for _ in range(2)]
    keras.distribution.set_distribution(None)
    return [np.array_equal(v, w) for v, w in zip(values, expected)], \\
        np.array_equal(*values)

def direct():
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
    layout = keras.distribution.TensorLayout((None, "model"), mesh)
    draw = keras_he.KaimingNormal(seed=1)
    expected = whole(draw((96, 64)))
    results = {}
    for name, layout in {"tensor layout": layout, "sharding": layout.backend_layout}.items():
        results[name] = np.array_equal(whole(draw((96, 64), layout=layout)), expected)
    in_jit = jax.jit(lambda: draw((96, 64), layout=layout))()
    results["jit"] = np.array_equal(whole(in_jit), expected)
    results["jit is sharded"] = in_jit.sharding.shard_shape((96, 64)) == (96, 16)
    results["empty"] = draw((0, 64), layout=layout).shape == (0, 64)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    results["one device"] = draw((96, 64), layout=one).devices() == {jax.devices()[3]}
    # As Keras' kernels, it is committed to no device, and goes where it is computed with.
    place = jax.sharding.NamedSharding(layout.mesh, jax.sharding.PartitionSpec(None, "model"))
    for shape in ((96, 64), (512, 512)):
        kernel = draw(shape)
        spread = jax.jit(lambda x: x * 2, in_shardings=place)(kernel)
        followed = len(spread.sharding.device_set) == 8 and not kernel.committed
        results[f"goes where it is needed, {shape}"] = followed and np.array_equal(
            whole(spread), 2 * whole(kernel))
    with keras_he.backend.framework.framework.double_precision():
        double = draw((96, 64), "float64", layout)
        results["float64"] = double.dtype == "float64" and np.array_equal(
            whole(double), whole(draw((96, 64), "float64")))
    try:
        draw((96, 62), layout=layout)
    except ValueError as error:
        results["uneven"] = str(error)
    return results

def donated():
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
    layout = keras.distribution.TensorLayout((None, None), mesh)
    kernel = keras_he.KaimingNormal(seed=1)((512, 512), layout=layout)
    expected = whole(kernel) * 2
    doubled = jax.jit(lambda x: x * 2, donate_argnums=0)(kernel)
    return all(np.array_equal(whole(s.data), expected) for s in doubled.addressable_shards)

RESULTS["memory"] = memory()
for name, (shape, axes) in MESHES.items():
    for cls in CLASSES:
        RESULTS[f"{name}, {cls.law}"] = compare(shape, axes, cls)
for dtype in ("float16", "bfloat16"):
    RESULTS[dtype] = compare((4, 2), ("batch", "model"), CLASSES[0], dtype)
expected, other = (whole(CLASSES[0](seed=seed)((96, 64))) for seed in (1, 2))
keras.distribution.set_distribution(keras.distribution.DataParallel())
RESULTS["data parallel"] = told(*built(CLASSES[0](seed=1)), expected, other)
keras.distribution.set_distribution(None)
RESULTS |= dict(models=models(), generators=generators(), direct=direct(), donated=donated())
print(json.dumps(RESULTS))
"""

# Shape of the mesh, and the axes of the mesh that the kernel's axes are laid along.
MESHES = {
    "(8,), first": ((8,), ("model", None)),
    "(8,), last": ((8,), (None, "model")),
    "(8,), none": ((8,), (None, None)),
    "(2, 4), first": ((2, 4), ("model", None)),
    "(2, 4), last": ((2, 4), (None, "model")),
    "(2, 4), both": ((2, 4), ("batch", "model")),
    "(2, 4), none": ((2, 4), (None, None)),
    "(4, 2), first": ((4, 2), ("batch", None)),
    "(4, 2), last": ((4, 2), (None, "batch")),
    "(4, 2), both": ((4, 2), ("model", "batch")),
    "(4, 2), none": ((4, 2), (None, None)),
}
# Keras gives initializers the layout from 3.15 on; before, it lays out what they drew.
GIVES_LAYOUT = tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 15)
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="distributions of JAX")


@pytest.fixture(scope="module")
def eight(run_python):
    """Returns what one process with eight devices found."""
    flags = "--xla_force_host_platform_device_count=8"
    printed = run_python(count_draws, DEVICES, f"MESHES = {MESHES!r}", ONE_PROCESS, XLA_FLAGS=flags)
    return json.loads(printed.splitlines()[-1])


@jax_only
@pytest.mark.parametrize("law", [*ELEMENTWISE, "orthogonal"])
@pytest.mark.parametrize("mesh", MESHES)
def test_sharded_kernels_have_the_values_of_one_device(eight, mesh, law):
    found = eight[f"{mesh}, {law}"]
    assert found["equal"]
    assert not found["other"]
    assert found["spec"] == list(MESHES[mesh][1])
    assert found["devices"] == 8
    if law != "orthogonal" and GIVES_LAYOUT:
        assert found["drawn"] == found["held"] == 96 * 64  # by one process, replicas once


@jax_only
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sharded_kernels_of_low_precision_have_the_values_of_one_device(eight, dtype):
    assert eight[dtype]["equal"]
    assert not eight[dtype]["other"]


@jax_only
def test_data_parallel_draws_once(eight):
    found = eight["data parallel"]
    assert found["equal"]
    assert not found["other"]
    assert found["devices"] == 8
    assert found["drawn"] == 96 * 64


@jax_only
@pytest.mark.parametrize("mesh", ["last", "none"])
def test_models_train_save_and_load_on_many_devices_as_on_one(eight, mesh):
    found, spec = eight["models"], [None, "model" if mesh == "last" else None]
    assert found[f"{mesh}: built"]
    np.testing.assert_allclose(found[f"{mesh}: losses"], found["losses alone"], rtol=1e-4)
    assert found["losses alone"][0] != pytest.approx(found["losses alone"][-1], rel=1e-2)
    assert found[f"{mesh}: loaded"]
    assert found[f"{mesh}: loaded spec"] == spec
    assert found[f"{mesh}: unbuilt spec"] == spec


@jax_only
@pytest.mark.parametrize("mesh", ["last", "none"])
def test_initialize_keeps_the_layout_and_gives_the_values_of_one_device(eight, mesh):
    found = eight["models"]
    assert found[f"{mesh}: initialized"]
    losses = found[f"{mesh}: initialized losses"]
    np.testing.assert_allclose(losses, found["initialized losses alone"], rtol=1e-4)
    assert found[f"{mesh}: initialized spec"] == [None, "model" if mesh == "last" else None]


@jax_only
@pytest.mark.skipif(not GIVES_LAYOUT, reason="Keras 3.15 sets the mesh")
def test_no_layer_is_built_in_jit_under_a_distribution(eight):
    """Where this fails it has become possible, and docs/devices.md says that it is not."""
    assert "can only be used outside of `jax.jit`" in eight["models"]["last: built in jit"]


@jax_only
def test_a_generator_moves_on_under_a_distribution(eight):
    equal, stands_still = eight["generators"]
    assert equal == [True, True]
    assert not stands_still


@jax_only
def test_layouts_given_by_hand_are_honoured(eight):
    found = dict(eight["direct"])
    assert "62" in found.pop("uneven")  # JAX lays out equal shards only, and says so
    assert all(found.values()), found
    assert len(found) == 9


@jax_only
def test_no_replica_writes_into_another(eight):
    assert eight["donated"]


@jax_only
def test_a_process_holds_its_shards_and_little_more(eight):
    assert 0.8 < eight["memory"] < 1.2  # of a kernel of 256 MiB


TWO_PROCESSES = """
keras.distribution.initialize(os.environ["ADDRESS"], 2, int(os.environ["RANK"]))


for name, (shape, axes) in MESHES.items():
    expected, other = (
        keras_he.sampling.stream.draw("normal", (96, 64), math.sqrt(2 / 96), seed, "float32")
        for seed in (1, 2))
    distribute(shape, axes)
    RESULTS[name] = told(*built(keras_he.KaimingNormal(seed=1)), expected, other)
unseeded = keras_he.KaimingNormal()
generator = keras_he.KaimingNormal(seed=keras.random.SeedGenerator(5))
RESULTS["unseeded"] = unseeded.seed
value = built(generator)[0]
RESULTS["generator"] = whole(value.addressable_shards[0].data).sum()
model = keras.Sequential([keras.Input((96,)),
    keras.layers.Dense(64, "relu", kernel_initializer="he_relu"),
    keras.layers.Dense(8, kernel_initializer="he_relu_orthogonal")])
report = keras_he.initialize(model, seed=1)
RESULTS["gains"] = [row.gain for row in report.kernels]
RESULTS["initialized spec"] = list(model.layers[0].kernel.value.sharding.spec)
print(json.dumps(RESULTS))
"""
# Shape of the mesh, its axes, and the elements that each of the processes is to draw.
TWO = {
    "first": ((8,), ("model", None), 48 * 64),
    "last": ((8,), (None, "model"), 96 * 32),
    "both": ((4, 2), ("batch", "model"), 48 * 64),
    "within a process": ((2, 4), (None, "model"), 96 * 64),
    "across": ((2, 4), ("batch", None), 48 * 64),
    "none": ((2, 4), (None, None), 96 * 64),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Returns what two processes with four devices each found."""
    import inspect

    meshes = {name: (shape, axes) for name, (shape, axes, _) in TWO.items()}
    parts = (inspect.getsource(count_draws), DEVICES, f"MESHES = {meshes!r}", TWO_PROCESSES)
    common = {
        "ADDRESS": f"127.0.0.1:{free_ports(1)[0]}",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    folder = tmp_path_factory.mktemp("two")
    printed = run_together(
        folder, "\n\n".join(parts), [{**common, "RANK": str(rank)} for rank in range(2)]
    )
    return [json.loads(text.splitlines()[-1]) for text in printed]


@jax_only
@pytest.mark.parametrize("mesh", TWO)
def test_each_of_two_processes_draws_its_own_shards(two, mesh):
    for found in (rank[mesh] for rank in two):
        assert found["equal"]
        assert not found["other"]
        assert found["spec"] == list(TWO[mesh][1])
        assert found["devices"] == 8
        if GIVES_LAYOUT:
            assert found["drawn"] == found["held"] == TWO[mesh][2]


@jax_only
@pytest.mark.parametrize("what", ["unseeded", "generator", "gains", "initialized spec"])
def test_two_processes_agree(two, what):
    assert two[0][what] == two[1][what]
