"""Orthogonal kernels: orthogonality, size, layout, and a law that is uniform over the group."""

import math

import keras
import numpy as np
import pytest

import keras_he
from keras_he.sampling.orthogonal import draw_orthogonal
from keras_he.sampling.stream import draw
from keras_he.theory.kernel_geometry import Geometry, matrix_axes


def kernel(shape, std=0.1, seed=3, dtype="float32", **geometry):
    matrices = matrix_axes(shape, Geometry(**geometry))
    return draw_orthogonal(matrices, shape, std, seed, dtype)


def assert_orthogonal(matrices, std):
    """Asserts that each matrix has orthogonal columns or rows of length std·sqrt(longer side)."""
    for matrix in np.asarray(matrices, np.float64):
        rows, columns = matrix.shape
        product = matrix.T @ matrix if rows >= columns else matrix @ matrix.T
        expected = std**2 * max(rows, columns) * np.eye(min(rows, columns))
        # Rounding to float32 moves each of `longer` products by 2^-24 of its size, twice.
        np.testing.assert_allclose(product, expected, atol=std**2 * max(rows, columns) * 2.0**-22)


@pytest.mark.parametrize("shape", [(7, 7), (48, 5), (5, 48), (1, 6), (6, 1), (1, 1)])
def test_dense_kernels_are_orthogonal(shape):
    assert_orthogonal(kernel(shape)[None], 0.1)


def test_a_convolution_is_one_matrix_from_taps_and_inputs_to_outputs():
    assert_orthogonal(kernel((3, 2, 4, 9)).reshape(1, 24, 9), 0.1)


def test_depthwise_kernels_have_one_matrix_a_channel():
    x = kernel((3, 3, 8, 2), kind="depthwise")
    assert_orthogonal(x.reshape(9, 8, 2).transpose(1, 0, 2), 0.1)


def test_groups_and_gates_have_a_matrix_each():
    x = kernel((3, 4, 12), groups=3)
    assert_orthogonal(x.reshape(12, 3, 4).transpose(1, 0, 2), 0.1)
    x = kernel((6, 24), gates=4)
    assert_orthogonal(x.reshape(6, 4, 6).transpose(1, 0, 2), 0.1)


def test_transposed_kernels_map_inputs_to_taps_and_outputs():
    x = kernel((3, 3, 4, 9), kind="transpose", strides=(2,))
    assert_orthogonal(x.reshape(1, 36, 9), 0.1)


def test_named_axes_map_inputs_to_outputs_and_stack_the_rest():
    x = kernel((4, 3, 10), input_axes=(0, 1), output_axes=(2,))
    assert_orthogonal(x.reshape(1, 12, 10), 0.1)
    x = kernel((10, 4, 3), input_axes=(0,), output_axes=(-2, -1))
    assert_orthogonal(x.reshape(1, 10, 12), 0.1)
    x = kernel((5, 4, 3), input_axes=(2,), output_axes=(0,))
    assert_orthogonal(x.transpose(1, 2, 0), 0.1)
    x = kernel((5,), input_axes=(0,), output_axes=())
    assert_orthogonal(x[None, :, None], 0.1)


@pytest.mark.parametrize("shape", [(64, 64), (9, 64), (3, 3, 16, 4)])
def test_the_mean_square_is_std_squared(shape):
    x = kernel(shape, std=0.3).astype(np.float64)
    assert math.sqrt(np.mean(x**2)) == pytest.approx(0.3, rel=1e-6)


def test_matrices_are_uniform_over_the_group():
    """Of Q's signs, LAPACK's Householder steps fix the determinant: both signs must occur.

    60 determinants of one sign happen with probability 2^-59 under the uniform law.
    """
    determinants = [np.linalg.det(kernel((3, 3), seed=seed) / 0.1) for seed in range(60)]
    assert {round(d / math.sqrt(27)) for d in determinants} == {-1, 1}


def test_it_is_the_orthogonal_factor_of_its_normal_draw():
    """Z = Q·R with a positive diagonal of R determines Q: Q.T @ Z must be that R."""
    shape = (12, 5)
    q = kernel(shape, std=1 / math.sqrt(12)).astype(np.float64)
    r = q.T @ draw("normal", shape, 1.0, 3, "float32").astype(np.float64)
    np.testing.assert_allclose(np.tril(r, -1), 0, atol=1e-5)
    assert (np.diagonal(r) > 0).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes_round_the_float32_kernel(dtype):
    x, rounded = kernel((16, 8)), kernel((16, 8), dtype=dtype)
    if dtype == "bfloat16":
        rounded = (rounded.astype(np.uint32) << 16).view(np.float32)
    # Half a unit of 8, 11 and 24 significant bits; float64 is the unit float32 kernel times std.
    digits = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float64": 2.0**-23}[dtype]
    np.testing.assert_allclose(rounded.astype(np.float64), x, rtol=digits, atol=1e-7)


def test_threads_change_no_value():
    matrices = matrix_axes((600, 600), Geometry())
    one = draw_orthogonal(matrices, (600, 600), 1.0, 3, "float32", threads=1)
    assert np.array_equal(one, draw_orthogonal(matrices, (600, 600), 1.0, 3, "float32", threads=7))


@pytest.mark.parametrize(
    ("arguments", "shape", "apart"),
    [
        ({"geometry": "depthwise"}, (3, 3, 8, 2), lambda x: x.reshape(9, 8, 2).swapaxes(0, 1)),
        ({"groups": 3}, (3, 4, 12), lambda x: x.reshape(12, 3, 4).swapaxes(0, 1)),
        ({"gates": 4}, (6, 24), lambda x: x.reshape(6, 4, 6).swapaxes(0, 1)),
        ({"geometry": "transpose"}, (3, 3, 4, 9), lambda x: x.reshape(1, 36, 9)),
    ],
)
def test_the_class_draws_by_its_geometry(arguments, shape, apart):
    initializer = keras_he.KaimingOrthogonal(gain=1.0, seed=3, **arguments)
    x = keras.ops.convert_to_numpy(initializer(shape))
    std = math.sqrt(np.mean(np.square(x, dtype=np.float64)))
    assert_orthogonal(apart(x), std)
