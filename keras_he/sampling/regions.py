"""A part of an array, drawn without the rest: what one device of several holds.

Elements are addressed as in `stream`, so a region has the values that it has in the whole array,
and only its own elements are drawn. What lies together in it is a run, whose words are read at
once; from one run to the next the generator jumps, or reads on through the words between, where
these are so few that a jump would take longer.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_he.sampling.laws import Words
from keras_he.sampling.stream import (
    STORAGE,
    Memory,
    Reader,
    Seed,
    aligned_empty,
    check_std,
    draw,
    fill_values,
    word_reader,
)

_GAP = 2**10  # words that are read in the time of one jump
_SPAN = 2**18  # words that are read at a time, with those between runs

Region = tuple[slice, ...]  # an axis that is left out is whole
Part = Callable[[Region], NDArray[Any]]  # returns a region of an array
WHOLE: Region = ()


def draw_region(
    law: str,
    shape: Sequence[int],
    region: Region,
    std: float,
    seed: Seed,
    dtype: str,
    threads: int | None = None,
    memory: Memory = aligned_empty,
) -> NDArray[Any]:
    """Returns `draw(law, shape, std, seed, dtype)[region]`, and draws nothing else.

    Args:
        law: As in `keras_he.sampling.stream.draw`.
        shape: Shape of the whole array.
        region: A slice of step 1 for each axis; an axis that is left out is whole.
        std: As in `keras_he.sampling.stream.draw`.
        seed: As in `keras_he.sampling.stream.draw`.
        dtype: As in `keras_he.sampling.stream.draw`.
        threads: As in `keras_he.sampling.stream.draw`.
        memory: As in `keras_he.sampling.stream.draw`.

    Raises:
        InvalidArgument: If values of this `std` do not fit into `dtype`.
    """
    if region == WHOLE or limits(shape, region) == limits(shape, WHOLE):
        return draw(law, shape, std, seed, dtype, threads, memory)
    check_std(std, dtype)
    values = empty_region(shape, region, dtype, memory)
    if values.size:
        make_reader = partial(_region_reader, seed, shape, _runs(shape, region))
        fill_values(values, law, std, dtype, make_reader, threads)
    return values


def cut_region(array: NDArray[Any], region: Region) -> NDArray[Any]:
    """Returns a region of an array that was drawn as a whole: itself, or a copy of a part."""
    values = array[region]
    if values.shape == array.shape:
        return array
    part = aligned_empty(values.shape, array.dtype.type)
    part[...] = values
    return part


def empty_region(
    shape: Sequence[int], region: Region, dtype: str, memory: Memory = aligned_empty
) -> NDArray[Any]:
    """Returns an uninitialized array of a region's shape, for values of `dtype`."""
    return memory([stop - start for start, stop in limits(shape, region)], STORAGE[dtype])


def limits(shape: Sequence[int], region: Region) -> tuple[tuple[int, int], ...]:
    """Returns the first index of a region along each axis, and the one after its last."""
    bounds = [part.indices(size) for part, size in zip(region, shape, strict=False)]
    cut = [(start, max(start, stop)) for start, stop, _ in bounds]
    return (*cut, *((0, size) for size in shape[len(cut) :]))


class _Runs(NamedTuple):
    """Where the runs of a region are: `length` elements at a time, `counts` times over axes."""

    length: int
    first: int
    counts: tuple[int, ...]
    strides: tuple[int, ...]

    def pieces(self, first: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns where in the whole array `count` elements of the region are, from `first` on.

        They are pieces of runs: the place of the first element of each, and its length.
        """
        begin, end = first // self.length, -(-(first + count) // self.length)
        starts = np.full(end - begin, self.first)
        places = np.unravel_index(np.arange(begin, end), self.counts)
        for place, stride in zip(places, self.strides, strict=True):
            starts += place * stride
        lengths = np.full(end - begin, self.length)
        lengths[-1] -= end * self.length - (first + count)
        skipped = first - begin * self.length
        starts[0] += skipped
        lengths[0] -= skipped
        return starts, lengths


def _runs(shape: Sequence[int], region: Region) -> _Runs:
    """Returns the runs of a region that is not empty."""
    bounds = limits(shape, region)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    cut = [axis for axis, bound in enumerate(bounds) if bound != (0, shape[axis])]
    # The last axis that is cut, and all that is behind it, are one run.
    outer = cut[-1] if cut else 0
    return _Runs(
        length=math.prod(stop - start for start, stop in bounds[outer:]),
        first=sum(start * stride for (start, _), stride in zip(bounds, strides, strict=True)),
        counts=(1, *(stop - start for start, stop in bounds[:outer])),
        strides=(0, *strides[:outer]),
    )


def _region_reader(seed: Seed, shape: Sequence[int], runs: _Runs) -> Reader:
    """Returns a function that reads the words of a region, as if there were no others."""
    read = word_reader(seed, shape)
    return lambda first, count: _words(read, *runs.pieces(first, count))


def _words(read: Reader, starts: NDArray[Any], lengths: NDArray[Any]) -> Words:
    """Returns the words of pieces, one after the other."""
    if len(starts) == 1:
        return read(int(starts[0]), int(lengths[0]))
    ends = np.cumsum(lengths)
    begins = ends - lengths
    words = np.empty(ends[-1], np.int32)
    jumps = np.diff(starts) - lengths[:-1] > _GAP
    full = np.diff((starts - starts[0]) // _SPAN) > 0
    cuts = [0, *(np.flatnonzero(jumps | full) + 1).tolist(), len(starts)]
    for low, high in pairwise(cuts):
        start, last = int(starts[low]), high - 1
        span = read(start, int(starts[last] + lengths[last]) - start)
        out = words[begins[low] : ends[last]]
        if high - low == 1:
            out[...] = span
        else:
            places = np.repeat((starts - begins)[low:high] - start, lengths[low:high])
            np.take(span, places + np.arange(begins[low], ends[last]), out=out)
    return words
