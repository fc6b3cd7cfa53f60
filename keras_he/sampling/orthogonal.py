"""Random orthogonal kernels: the one law that is drawn as a whole, not element by element.

Each matrix of a kernel's stack (one, or one per channel, group or gate) is Q of the QR
decomposition of a normal draw. The diagonal of R fixes the signs: LAPACK's depend on its algorithm,
and the matrices would not be uniform over the orthogonal group. QR runs in float64 and the result
is rounded to float32, so that it hardly depends on the LAPACK in use.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_he.sampling.stream import STORAGE, Seed, aligned_empty, check_std, draw, store
from keras_he.theory.kernel_geometry import Matrices


def draw_orthogonal(
    matrices: Matrices,
    shape: Sequence[int],
    std: float,
    seed: Seed,
    dtype: str,
    threads: int | None = None,
) -> NDArray[Any]:
    """Returns a kernel whose matrices have orthogonal columns (tall) or rows (wide).

    The columns (rows) are of equal length, such that the mean square of the elements is `std²`:
    a tall matrix is `Q · std · sqrt(rows)`, a wide one `Q · std · sqrt(columns)`. No axis of the
    kernel has length 0. `seed`, `dtype` and `threads` are those of `keras_he.sampling.stream.draw`;
    LAPACK chooses the threads of the QR decomposition by itself.

    Reference:
        Saxe et al. (2014), arXiv:1312.6120; Mezzadri (2007), arXiv:math-ph/0609050, on the signs.
    """
    check_std(std, dtype, largest_element(matrices))
    stack, rows, columns = _sizes(matrices)
    tall, short = max(rows, columns), min(rows, columns)
    normal = draw("normal", shape, 1.0, seed, "float32", threads=threads)
    q, r = np.linalg.qr(normal.reshape(stack, tall, short).astype(np.float64))
    diagonal = np.diagonal(r, axis1=-2, axis2=-1)
    q *= np.where(diagonal < 0, -1.0, 1.0)[:, None, :] * math.sqrt(tall)
    # As for the other laws, a float64 kernel is the float32 one of unit size times `std`.
    factor = std if dtype == "float64" else 1.0
    q *= std / factor
    kernel = _kernel(q if rows >= columns else q.swapaxes(-2, -1), matrices, shape)
    out = aligned_empty(shape, STORAGE[dtype])
    store(np.ascontiguousarray(kernel, np.float32), out, dtype, factor)
    return out


def largest_element(matrices: Matrices) -> float:
    """Returns the largest possible value in units of `std`: a column with one nonzero element."""
    _, rows, columns = _sizes(matrices)
    return math.sqrt(max(rows, columns))


def _sizes(matrices: Matrices) -> tuple[int, int, int]:
    """Returns the number of matrices, of their rows, and of their columns."""
    stack, rows, columns = (
        math.prod(matrices.split[axis] for axis in axes)
        for axes in (matrices.stack, matrices.rows, matrices.columns)
    )
    return stack, rows, columns


def _kernel(stacked: NDArray[Any], matrices: Matrices, shape: Sequence[int]) -> Any:
    """Returns matrices of shape (stack, rows, columns) with their axes put back in the kernel."""
    order = (*matrices.stack, *matrices.rows, *matrices.columns)
    apart = stacked.reshape([matrices.split[axis] for axis in order])
    return apart.transpose(np.argsort(order)).reshape(shape)
