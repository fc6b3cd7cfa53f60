"""Shape and geometry of a kernel → fans; with a gain → standard deviation.

The geometry says how a layer uses the kernel. A kernel is a stack of matrices from inputs to
outputs: one for a dense kernel or a convolution, one per channel (depthwise), per group, or per
gate. `matrix_axes` returns this view, for the orthogonal law; `fans` counts connections.

The shape does not determine the geometry: `(3, 3, 64, 1)` is a convolution to one channel, or a
depthwise kernel. It is not guessed: `geometry=None` is a dense kernel (two axes) or a convolution
(three or more), as in Keras.
"""

import math
import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from keras_he.errors import did_you_mean, invalid
from keras_he.theory.quadrature import Moments

GeometryKind = Literal["depthwise", "transpose"]
GEOMETRIES: tuple[str, ...] = get_args(GeometryKind)
Mode = Literal["fan_in", "fan_out", "fan_avg"]
MODES: tuple[Mode, ...] = get_args(Mode)

_LARGEST = 2**63 - 1  # the largest size in NumPy


class Fans(NamedTuple):
    """Inputs of one output unit, and outputs of one input unit; means if units differ."""

    fan_in: float
    fan_out: float


class Geometry(NamedTuple):
    """How a layer uses a kernel; checked, except against the shape."""

    kind: str | None = None
    strides: tuple[int, ...] = (1,)  # one number holds for every spatial axis
    groups: int = 1
    gates: int = 1
    input_axes: tuple[int, ...] | None = None
    output_axes: tuple[int, ...] | None = None

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of `fans` that give this geometry."""
        strides = self.strides[0] if len(self.strides) == 1 else self.strides
        return {
            "geometry": self.kind,
            "strides": strides,
            "groups": self.groups,
            "gates": self.gates,
            "input_axes": self.input_axes,
            "output_axes": self.output_axes,
        }


# The arguments of `fans` with their defaults. Frozen: saved files omit defaults.
DEFAULTS = Geometry().arguments()


class Matrices(NamedTuple):
    """A kernel as a stack of matrices.

    `split` is the kernel's shape, with the axis of groups or gates split in two. `stack`, `rows`
    (inputs) and `columns` (outputs) are the axes of `split`.
    """

    split: tuple[int, ...]
    stack: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def fans(
    shape: Sequence[int],
    *,
    geometry: GeometryKind | None = None,
    strides: int | Sequence[int] = 1,
    groups: int = 1,
    gates: int = 1,
    input_axes: Sequence[int] | None = None,
    output_axes: Sequence[int] | None = None,
) -> Fans:
    """Returns the fans of a Keras kernel.

    With `k` the product of the spatial sizes and `s` the product of the strides:

    | kernel shape | fan_in | fan_out |
    |---|---|---|
    | dense `(i, gates·o)` | i | o |
    | convolution `(k…, i/groups, gates·o)` | k·i/groups | k·o/(groups·s) |
    | `"depthwise"` `(k…, c, m)` | k | k·m/s |
    | `"transpose"` `(k…, o, i)` | k·i/s | k·o |
    | axes given | product of the input axes | product of the output axes |

    Args:
        shape: Shape of the kernel, spatial axes first, as Keras stores it.
        geometry: `None` for a dense kernel or a convolution, `"depthwise"` or `"transpose"`.
        strides: Strides of the layer, at least 1: one number, or one per spatial axis.
        groups: Number of groups of a convolution; divides its last axis.
        gates: Number of gates in the last axis of a recurrent kernel: 4 for an LSTM, 3 for a GRU.
        input_axes: Axes of the kernel that are summed over. They replace the arguments above.
        output_axes: Axes of the kernel that are new in the output. Other axes are shared, such as
            the batch axes of an einsum.

    Returns:
        `Fans(fan_in, fan_out)`, floats, because with strides they are means over positions.

    Raises:
        InvalidArgument: If the shape does not fit the geometry, or an argument is out of range.

    Example:
        >>> import keras_he
        >>> keras_he.fans((3, 3, 64, 1), geometry="depthwise")
        Fans(fan_in=9.0, fan_out=9.0)
        >>> keras_he.fans((4, 4, 16, 64), geometry="transpose", strides=2)
        Fans(fan_in=256.0, fan_out=256.0)

    Reference:
        He et al. (2015), arXiv:1502.01852, section 2.2: `n = k²c` forward, `n̂ = k²d` backward.
    """
    sizes = checked_shape(shape)
    use = make_geometry(
        geometry, strides, groups, gates, input_axes=input_axes, output_axes=output_axes
    )
    return geometry_fans(sizes, use)


def make_geometry(
    geometry: str | None = None,
    strides: int | Sequence[int] = 1,
    groups: int = 1,
    gates: int = 1,
    *,
    input_axes: Sequence[int] | None = None,
    output_axes: Sequence[int] | None = None,
) -> Geometry:
    """Returns the arguments of `fans` as a `Geometry`, or raises an error."""
    if geometry is not None and not (isinstance(geometry, str) and geometry in GEOMETRIES):
        raise invalid(
            "geometry",
            'None, "depthwise" or "transpose"',
            geometry,
            did_you_mean(geometry, GEOMETRIES),
        )
    split = Geometry(
        geometry, _counts("strides", strides), _count("groups", groups), _count("gates", gates)
    )
    if input_axes is None and output_axes is None:
        if geometry is not None and (split.groups, split.gates) != (1, 1):
            raise invalid(
                "geometry",
                "None where `groups` or `gates` is given",
                geometry,
                "A depthwise or transposed kernel is not divided into groups or gates.",
            )
        return split
    if input_axes is None or output_axes is None:
        missing = "input_axes" if input_axes is None else "output_axes"
        raise invalid(missing, "given together with the other axes", None)
    if split != Geometry():
        raise invalid(
            "input_axes",
            "None where `geometry`, `strides`, `groups` or `gates` is given",
            input_axes,
            "Axes replace these arguments. EinsumDense and attention set the axes by themselves: "
            "leave the other arguments out there.",
        )
    return Geometry(
        input_axes=_axes("input_axes", input_axes), output_axes=_axes("output_axes", output_axes)
    )


@lru_cache(maxsize=1024)  # networks have many kernels of one shape
def geometry_fans(shape: tuple[int, ...], geometry: Geometry) -> Fans:
    """Returns the fans of a kernel of this shape; see `fans`."""
    matrices = matrix_axes(shape, geometry)

    def product(axes: tuple[int, ...]) -> int:
        return math.prod(matrices.split[axis] for axis in axes)

    fan_in, fan_out = float(product(matrices.rows)), float(product(matrices.columns))
    if geometry.input_axes is not None:
        return Fans(fan_in, fan_out)
    spatial = len(shape) - 2
    area = math.prod(shape[:spatial])
    steps = math.prod(_strides(geometry, spatial))
    if geometry.kind == "transpose":  # an output position uses every s-th position of the kernel
        return Fans(area * fan_in / steps, fan_out)
    return Fans(fan_in, area * fan_out / steps)


def matrix_axes(shape: Sequence[int], geometry: Geometry) -> Matrices:
    """Returns the kernel as a stack of matrices from inputs to outputs.

    The spatial axes of a convolution belong to the rows, because an output unit sums over them;
    those of a transposed convolution belong to the columns.
    """
    sizes = checked_shape(shape)
    rank = len(sizes)
    if geometry.input_axes is not None and geometry.output_axes is not None:
        return _named_axes(sizes, geometry.input_axes, geometry.output_axes)
    _check_rank(sizes, geometry)
    _strides(geometry, rank - 2)
    spatial = tuple(range(rank - 2))
    first, last = rank - 2, rank - 1
    if geometry.kind == "depthwise":
        return Matrices(sizes, stack=(first,), rows=spatial, columns=(last,))
    if geometry.kind == "transpose":
        return Matrices(sizes, stack=(), rows=(last,), columns=(*spatial, first))
    blocks = geometry.groups * geometry.gates
    if sizes[-1] % blocks:
        argument = "groups" if geometry.groups > 1 else "gates"
        raise invalid(
            argument,
            f"a divisor of the kernel's last axis, {sizes[-1]}",
            geometry.groups if geometry.groups > 1 else geometry.gates,
        )
    # The last axis holds the gates or groups one after another: it becomes (blocks, size).
    split = (*sizes[:-1], blocks, sizes[-1] // blocks)
    return Matrices(split, stack=(last,), rows=(*spatial, first), columns=(last + 1,))


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the shape as a tuple of integers, none of them unknown or negative."""
    try:
        sizes = tuple([integer(size) for size in shape])  # a list: a generator takes twice as long
    except TypeError:
        sizes = (-1,)
    if sizes and not 0 <= min(sizes) <= max(sizes) <= _LARGEST:
        raise invalid("shape", "a sequence of known, non-negative integers", shape)
    return sizes


def integer(value: Any) -> int:
    """Returns an integer of any type, and raises `TypeError` for everything else, also for bool."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError
    return operator.index(value)


def _named_axes(
    sizes: tuple[int, ...], input_axes: tuple[int, ...], output_axes: tuple[int, ...]
) -> Matrices:
    rank = len(sizes)
    for argument, axes in (("input_axes", input_axes), ("output_axes", output_axes)):
        if any(not -rank <= axis < rank for axis in axes):
            raise invalid(argument, f"axes of a kernel with {rank} axes", axes)
    rows = tuple(axis % rank for axis in input_axes)
    columns = tuple(axis % rank for axis in output_axes)
    if len({*rows, *columns}) < len(rows) + len(columns):
        raise invalid("output_axes", f"distinct axes, none among {input_axes}", output_axes)
    stack = tuple(axis for axis in range(rank) if axis not in rows and axis not in columns)
    return Matrices(sizes, stack, rows, columns)


def _check_rank(sizes: tuple[int, ...], geometry: Geometry) -> None:
    """Refuses a shape that has too few axes to be a kernel of this geometry."""
    rank = len(sizes)
    if rank < 2:
        raise invalid(
            "shape",
            "that of a kernel, with two axes or more",
            sizes,
            "A bias or another vector has no fans: "
            'use `bias_initializer="zeros"`, or give `input_axes` and `output_axes`.',
        )
    if rank == 2 and geometry.kind is not None:
        raise invalid(
            "shape", f"(spatial…, channels, channels) for a {geometry.kind} kernel", sizes
        )
    if rank == 2 and geometry.groups > 1:
        raise invalid("groups", "1 for a dense kernel, which has no groups", geometry.groups)


def _strides(geometry: Geometry, spatial: int) -> tuple[int, ...]:
    """Returns one stride per spatial axis."""
    strides = geometry.strides
    if len(strides) == 1 and spatial:
        return strides * spatial
    if len(strides) != spatial and strides != (1,):
        raise invalid("strides", f"one number, or one per spatial axis ({spatial})", strides)
    return strides


def _count(argument: str, value: Any) -> int:
    try:
        count = integer(value)
    except TypeError:
        count = 0
    if not 1 <= count <= _LARGEST:
        raise invalid(argument, "an integer of at least 1", value)
    return count


def _counts(argument: str, value: Any) -> tuple[int, ...]:
    counts = tuple(_count(argument, one) for one in (value if _is_sequence(value) else [value]))
    if not counts:
        raise invalid(argument, "an integer of at least 1, or one per spatial axis", value)
    return counts


def _axes(argument: str, value: Any) -> tuple[int, ...]:
    try:
        if not _is_sequence(value):
            raise TypeError
        return tuple(integer(axis) for axis in value)
    except TypeError:
        raise invalid(argument, "a sequence of integers", value) from None


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def checked_mode(mode: object) -> Mode:
    """Returns the mode, or raises the error that names all modes."""
    for known in MODES:
        if isinstance(mode, str) and mode == known:
            return known
    raise invalid("mode", '"fan_in", "fan_out" or "fan_avg"', mode, did_you_mean(mode, MODES))


def standard_deviation(gain: float | Moments, fans: Fans, mode: str) -> float:
    """Returns the standard deviation that keeps the second moment of the signal, or the gradient.

    | mode | from an activation's moments | from a gain `g` |
    |---|---|---|
    | `"fan_in"` | `sqrt(1 / (n_in·E[f²]))` | `g / sqrt(n_in)` |
    | `"fan_out"` | `sqrt(1 / (n_out·E[f'²]))` | `g / sqrt(n_out)` |
    | `"fan_avg"` | `sqrt(2 / (n_in·E[f²] + n_out·E[f'²]))` | `g·sqrt(2 / (n_in + n_out))` |

    The fans must be above zero.

    Reference:
        He et al. (2015), arXiv:1502.01852, equations 10 and 14; Glorot and Bengio (2010),
        equation 12, for the mean of both conditions.
    """
    if isinstance(gain, Moments):
        forward, backward = fans.fan_in * gain.signal, fans.fan_out * gain.gradient
        factor = 1.0
    else:
        forward, backward = fans
        factor = gain
    inverse = {"fan_in": forward, "fan_out": backward, "fan_avg": (forward + backward) / 2}[mode]
    return factor / math.sqrt(inverse)
