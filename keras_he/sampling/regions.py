"""A part of an array, drawn without the rest: what one of several devices holds.

Elements are addressed as in `stream`, so a region has the same values as in the whole array, and
only its own elements are drawn. Elements that are neighbours in memory form a run, whose words are
read at once. From one run to the next the generator jumps; where only few words are between them,
it reads those too, because a jump takes longer.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_he.sampling.laws import Words, law_named
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
    *,
    threads: int | None = None,
    memory: Memory = aligned_empty,
) -> NDArray[Any]:
    """Returns `draw(law, shape, std, seed, dtype)[region]`, and draws nothing else.

    `shape` is that of the whole array. A region is a slice of step 1 for each axis. The other
    arguments and the errors are those of `keras_he.sampling.stream.draw`.
    """
    if region == WHOLE or limits(shape, region) == limits(shape, WHOLE):
        return draw(law, shape, std, seed, dtype, threads=threads, memory=memory)
    known = law_named(law)
    check_std(std, dtype, known.furthest)
    values = empty_region(shape, region, dtype, memory)
    if values.size:
        make_reader = partial(_region_reader, seed, shape, _runs(shape, region))
        fill_values(values, known, std, dtype, make_reader, threads)
    return values


def cut_region(array: NDArray[Any], region: Region) -> NDArray[Any]:
    """Returns a region of an array that was drawn as a whole: the array, or a copy of a part."""
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
    """Returns, for each axis, the first index of a region and the index after its last."""
    bounds = [part.indices(size) for part, size in zip(region, shape, strict=False)]
    cut = [(start, max(start, stop)) for start, stop, _ in bounds]
    return (*cut, *((0, size) for size in shape[len(cut) :]))


class _Runs(NamedTuple):
    """The runs of a region: `length` elements each, `counts` of them along the outer axes."""

    length: int
    first: int
    counts: tuple[int, ...]
    strides: tuple[int, ...]

    def pieces(self, first: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns where `count` elements of the region, from `first` on, are in the whole array.

        They are pieces of runs; each is given by the index of its first element and its length.
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
    # The last axis that is cut and all axes after it form one run.
    outer = cut[-1] if cut else 0
    return _Runs(
        length=math.prod(stop - start for start, stop in bounds[outer:]),
        first=sum(start * stride for (start, _), stride in zip(bounds, strides, strict=True)),
        counts=(1, *(stop - start for start, stop in bounds[:outer])),
        strides=(0, *strides[:outer]),
    )


def _region_reader(seed: Seed, shape: Sequence[int], runs: _Runs) -> Reader:
    """Returns a function that reads the words of a region, numbered from 0."""
    read = word_reader(seed, shape)
    return lambda first, count: _words(read, *runs.pieces(first, count))


def _words(read: Reader, starts: NDArray[Any], lengths: NDArray[Any]) -> Words:
    """Returns the words of pieces, joined."""
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
