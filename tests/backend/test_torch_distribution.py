"""PyTorch's `ModelParallel` by DTensor: two processes on the loopback, one kernel cut in two.

Keras has it from 3.16 on. It tells initializers no layout there: each process draws the whole
kernel, and Keras cuts it.
"""

import json

import keras
import pytest
from processes import free_ports, run_together

VERSION = tuple(int(part) for part in keras.version().split(".")[:2])
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "torch" or VERSION < (3, 16),
        reason="needs the PyTorch backend of Keras 3.16",
    ),
]

CODE = """
import json, os
import numpy as np
import keras
from keras import distribution
distribution.initialize()
import keras_he

def network():
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((8,)),
        keras.layers.Dense(16, "gelu", kernel_initializer=keras_he.KaimingNormal("linear", seed=3)),
        keras.layers.Dense(12, "relu", kernel_initializer="he_gelu_uniform"),
        keras.layers.Dense(4, kernel_initializer="he_relu_orthogonal"),
    ])

def whole(variable):
    tensor = variable.value.data
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).numpy()

def equal(one, other):
    pairs = zip(one.weights, other.weights, strict=True)
    return [bool(np.array_equal(whole(a), whole(b))) for a, b in pairs]

def placements(model):
    return [str(getattr(one.value.data, "placements", "whole")) for one in model.weights]

def figures(report):
    names = ("std", "mean", "dead", "gradient", "kernel_gradient", "update_ratio")
    seen = [[getattr(row.figures, name) or 0.0 for name in names] for row in report.kernels]
    return np.array([[row.moments[0], *one] for row, one in zip(report.kernels, seen)])

x = np.random.default_rng(0).standard_normal((16, 8)).astype("float32")
alone = network()
mesh = distribution.DeviceMesh((1, 2), ("batch", "model"), devices=["cpu:0", "cpu:1"])
layouts = distribution.LayoutMap(mesh)
layouts[".*kernel"] = (None, "model")
cut = distribution.ModelParallel(
    layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False)
distribution.set_distribution(cut)
model = network()
found = {"drawn": equal(model, alone), "placements": placements(model)}
found["local"] = list(model.layers[0].kernel.value.data.to_local().shape)
gains = [row.gain for row in keras_he.initialize(model, x, seed=5).kernels]
found["kept"] = placements(model)
seen = figures(keras_he.audit(model, x))
with keras_he.skip_init():
    copy = network()
    for one, other in zip(copy.weights, model.weights, strict=True):
        one.assign(other)
found["loaded"] = equal(copy, model)
found["copied"] = placements(copy)

distribution.set_distribution(None)
found["gains"] = gains == [row.gain for row in keras_he.initialize(alone, x, seed=5).kernels]
found["initialized"] = equal(model, alone)
there = figures(keras_he.audit(alone, x))
found["figures"] = float(np.max(np.abs(seen - there) / (np.abs(there) + 1e-2)))

distribution.set_distribution(cut)
model.compile("sgd", "mse")
logger = keras_he.SignalLogger(x, every=1)
model.fit(x, np.ones((16, 4), "float32"), batch_size=8, verbose=0, callbacks=[logger])
found["looks"] = sorted(logger.reports)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Returns what each of the two processes found."""
    (port,) = free_ports(1)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environments = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    printed = run_together(tmp_path_factory.mktemp("dtensor"), CODE, environments)
    return [json.loads(one.splitlines()[-1]) for one in printed]


def test_kernels_are_cut_and_have_the_values_of_one_process(processes):
    for found in processes:
        assert found["local"] == [8, 8]  # half of (8, 16)
        assert sum("Shard(dim=1)" in one for one in found["placements"]) == 3
        assert all(found["drawn"])


def test_initialize_keeps_the_placement_and_gives_the_values_of_one_process(processes):
    for found in processes:
        assert found["kept"] == found["placements"]
        assert found["gains"]
        assert all(found["initialized"])


def test_audit_sees_what_it_sees_on_one_process(processes):
    # Sums of at most 256 products in another order, in float32.
    assert all(found["figures"] < 1e-4 for found in processes)


def test_what_is_built_in_skip_init_is_loaded(processes):
    for found in processes:
        assert all(found["loaded"])
        assert found["copied"] == found["placements"]


def test_the_logger_looks_on_while_a_cut_model_is_trained(processes):
    assert [found["looks"] for found in processes] == [[0, 1, 2]] * 2
