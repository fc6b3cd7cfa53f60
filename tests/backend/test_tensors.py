"""The hand-over to the backend: no copy where memory is aligned, no crash where it is not."""

import gc

import keras
import numpy as np
import pytest

import keras_he
from keras_he.backend.framework import framework
from keras_he.sampling import stream as sampling
from keras_he.sampling.laws import LAWS
from keras_he.sampling.stream import aligned_empty

BACKEND = keras.backend.backend()
SIZE = 2**20


def filled(offset=0, size=SIZE):
    """Returns an array whose memory starts `offset` bytes after an aligned address."""
    memory = aligned_empty((size * 4 + 64,), np.uint8)
    array = memory[offset : offset + size * 4].view(np.float32)
    array[...] = np.arange(size)
    return array


def address(tensor):
    """Returns where the tensor's values are in memory."""
    if BACKEND == "jax":
        return tensor.unsafe_buffer_pointer()
    if BACKEND == "torch":
        return tensor.data_ptr()
    return np.asarray(memoryview(tensor)).ctypes.data


@pytest.mark.parametrize("offset", [0, 4, 8, 16, 32, 60])
def test_any_alignment_gives_the_right_values(offset):
    tensor = framework.to_tensor(filled(offset), "float32")
    gc.collect()
    assert np.array_equal(keras.ops.convert_to_numpy(tensor), np.arange(SIZE, dtype="float32"))


@pytest.mark.skipif(BACKEND not in ("tensorflow", "jax", "torch"), reason="copies by itself")
def test_aligned_memory_is_not_copied():
    array = filled()
    assert address(framework.to_tensor(array, "float32")) == array.ctypes.data


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("size", [0, 1, 100, SIZE])
def test_every_dtype_and_size_arrives(dtype, size):
    values = (np.arange(size) % 200).astype(np.float32)
    storage = {"float16": np.float16, "bfloat16": np.uint16, "float32": np.float32}[dtype]
    array = aligned_empty((size,), storage)
    array[...] = values.view(np.uint32) >> 16 if dtype == "bfloat16" else values
    tensor = framework.to_tensor(array, dtype)
    assert keras.backend.standardize_dtype(tensor.dtype) == dtype
    assert np.array_equal(keras.ops.convert_to_numpy(tensor).astype(np.float32), values)


def test_values_outlive_what_was_handed_over():
    """Fills memory that was freed meanwhile: a tensor that pointed to it would change."""
    kernels = [keras_he.KaimingNormal(seed=i)((512, 512)) for i in range(8)]
    expected = [keras.ops.convert_to_numpy(kernel).copy() for kernel in kernels]
    gc.collect()
    noise = [np.full((512, 512), np.nan, np.float32) for _ in range(32)]
    for kernel, values in zip(kernels, expected, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(kernel), values)
    assert len(noise) == 32


def test_variables_of_one_draw_do_not_share_memory():
    initializer = keras_he.KaimingNormal(seed=1)
    first, second = (keras.Variable(initializer, shape=(512, 512)) for _ in range(2))
    expected = keras.ops.convert_to_numpy(second).copy()
    first.assign(first + 1.0)
    assert np.array_equal(keras.ops.convert_to_numpy(second), expected)


def test_training_moves_handed_over_weights_safely():
    """Optimizers write in place, and JAX donates buffers, over memory that NumPy allocated."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((256,)), *hidden(3), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).standard_normal((64, 256)).astype("float32")
    before = [weight.copy() for weight in model.get_weights()]
    losses = model.fit(x, x[:, :1] ** 2, epochs=5, batch_size=16, verbose=0).history["loss"]
    gc.collect()
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert any(not np.array_equal(b, a) for b, a in zip(before, model.get_weights(), strict=True))


def hidden(count):
    return [
        keras.layers.Dense(512, activation="relu", kernel_initializer="he_relu")
        for _ in range(count)
    ]


@pytest.mark.parametrize("offset", [4, 8, 32, 60])
def test_misaligned_memory_is_not_shared(offset):
    array = filled(offset)
    assert array.ctypes.data % sampling.ALIGNMENT != 0
    if BACKEND in ("tensorflow", "jax"):
        assert address(framework.to_tensor(array, "float32")) != array.ctypes.data


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow lends memory")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_large_arrays_are_drawn_into_memory_of_tensorflow(dtype):
    from keras_he.backend.tensorflow import Lent

    array = framework.empty((1024, 4096), sampling.STORAGE[dtype])
    assert isinstance(array.base, Lent)
    assert array.ctypes.data % 64 == 0
    array[...] = np.arange(array.size).reshape(array.shape) % 97
    tensor = framework.to_tensor(array, dtype)
    expected = array.copy()
    assert keras.backend.standardize_dtype(tensor.dtype) == dtype
    if dtype != "bfloat16":  # bits, which have no buffer
        assert address(tensor) == array.ctypes.data
    del array
    gc.collect()
    noise = [framework.empty((1024, 4096), np.float64) for _ in range(3)]
    for memory in noise:
        memory.fill(-1)
    values = keras.ops.convert_to_numpy(tensor)
    assert np.array_equal(values.view(expected.dtype), expected)


@pytest.mark.parametrize("law", [law.name for law in LAWS.values() if law.fill])
def test_lent_memory_holds_the_same_values(law):
    shape = (1025, 2049)
    kernel = keras_he.KaimingNormal(gain=1.0, seed=3)
    kernel.law = law
    std = 1025**-0.5
    expected = sampling.draw(law, shape, std, 3, "float32")
    assert np.array_equal(keras.ops.convert_to_numpy(kernel(shape)), expected)


def test_small_kernels_outlive_what_was_handed_over():
    """As above, for memory that NumPy gives again at once."""
    kernels = [keras_he.KaimingNormal(seed=i)((4, 4)) for i in range(100)]
    expected = [keras_he.KaimingNormal(seed=i)((4, 4)) for i in range(100)]
    noise = [np.full((4, 4), np.nan, np.float32) for _ in range(1000)]
    for kernel, values in zip(kernels, expected, strict=True):
        assert np.array_equal(
            keras.ops.convert_to_numpy(kernel), keras.ops.convert_to_numpy(values)
        )
    assert len(noise) == 1000
