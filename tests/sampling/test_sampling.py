"""The sampler: laws within proven bounds, and values that depend on seed, shape and law alone."""

import hashlib
import threading

import numpy as np
import pytest
from bounds import ALPHA, LAWS, assert_law, assert_uncorrelated
from scipy import special

from keras_he.errors import InvalidArgument
from keras_he.sampling import laws
from keras_he.sampling import stream as sampling
from keras_he.sampling.stream import aligned_empty, draw

DTYPES = ("float16", "bfloat16", "float32", "float64")
BLOCK = 2**18  # where golden values are taken; several blocks, whatever their size
PAST_A_BLOCK = (3, BLOCK // 2 + 1)  # 1.5 blocks, and an odd number of elements

# First value, the two around the first block boundary, and the last, of seed 11 and PAST_A_BLOCK;
# then the digest of all bytes. Numbers of the contract: see CHANGELOG, *Numbers*.
GOLDEN = {
    "normal": (
        "0x1.fcdeec0000000p-3",
        "0x1.14adf00000000p-3",
        "-0x1.70c7d80000000p-1",
        "0x1.3f9d660000000p-1",
        "d5d08a87904484f157f5ac14c8239f543e5908a1acbfee18df64a6f2248e9f37",
    ),
    "uniform": (
        "0x1.5c0aa60000000p-2",
        "0x1.7d355a0000000p-3",
        "-0x1.d4ce540000000p-1",
        "0x1.9e9d440000000p-1",
        "6785e23592dcd0de1e591c261563211a5de2a9bb065f0dcdb4bb17f3ce0ee6c9",
    ),
    "truncated_normal": (
        "0x1.13d83a0000000p-2",
        "0x1.2c289e0000000p-3",
        "-0x1.8ccf100000000p-1",
        "0x1.58adf40000000p-1",
        "38792d3c7e78267f10a48920a193f5af8c6a1d0580aa0b5f8d7671ab7973bc65",
    ),
}


def numbers(array, dtype):
    """Returns a drawn array as float64."""
    if dtype == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def words(seed, shape):
    """Returns the words of a stream, computed in one piece, as the contract defines them."""
    key = np.random.SeedSequence(seed, spawn_key=(len(shape), *shape))
    count = int(np.prod(shape))
    raw = np.random.PCG64DXSM(key).random_raw((count + 1) // 2)
    return raw.astype("<u8").view("<i4")[:count].astype(np.float64)


def quantiles(law, word):
    """Returns the standard quantiles of words, from SciPy."""
    probability = (word + 0.5) * 2.0**-32  # of the half line; word is -2^31 to 2^31 - 1
    return {
        "normal": lambda: (
            special.ndtri_exp(np.log(0.5 - np.abs(probability))) * -np.sign(probability)
        ),
        "uniform": lambda: np.sqrt(3) * 2 * probability,
        "truncated_normal": lambda: (
            special.ndtri(0.5 + probability * special.erf(np.sqrt(2))) / LAWS_STD
        ),
    }[law]()


LAWS_STD = 0.87962566103423978  # of a normal law cut at two of its standard deviations

# Largest error, in std: the fit's (2.0e-6 for the normal, 4.4e-6 / 0.88 for the truncated law), a
# few roundings to float32 (1e-6), and the share 2^-20 that the truncated law leaves out at the cut,
# 2^-20 · 0.954 / (2 φ(2) · 0.88) = 9.6e-6.
TOLERANCE = {"normal": 3e-6, "uniform": 1e-6, "truncated_normal": 16e-6}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", LAWS)
def test_draws_follow_their_law(law, dtype):
    assert_law(numbers(draw(law, (512, 512), 0.07, 1, dtype), dtype), law, 0.07, dtype)


@pytest.mark.parametrize("law", LAWS)
def test_elements_are_quantiles_of_their_words(law):
    shape = (BLOCK + 12345,)
    expected = 0.5 * quantiles(law, words(9, shape))
    assert np.abs(draw(law, shape, 0.5, 9, "float32") - expected).max() <= 0.5 * TOLERANCE[law]


@pytest.mark.parametrize("law", LAWS)
def test_extreme_words_have_finite_right_values(law):
    extreme = np.array([-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 2, 2**31 - 1], np.int32)
    near_the_cut = (np.linspace(0.97, 0.99, 1001) * 2**31).astype(np.int32)
    given = np.concatenate([extreme, near_the_cut, -near_the_cut])
    values = np.empty(given.size, np.float32)
    laws.LAWS[law].fill(1.0)(given, values, np.empty((3, given.size), np.float32))
    np.testing.assert_allclose(values, quantiles(law, given.astype(float)), atol=TOLERANCE[law])


def test_the_tail_of_the_normal_law_is_monotone_and_right_to_float32():
    near_the_end = np.arange(2.0**12)
    outer = np.unique(np.concatenate([near_the_end, np.geomspace(2.0**12, 0.02 * 2**31, 10**6)]))
    given = (2**31 - 1 - outer).astype(np.int32)
    values = np.empty(given.size, np.float32)
    laws.LAWS["normal"].fill(1.0)(given, values, np.empty((3, given.size), np.float32))
    tail = given > 0.981 * 2**31  # past the cut; in front of it the fit of the centre holds
    assert np.all(np.diff(values[tail]) <= 0)
    expected = quantiles("normal", given[tail].astype(float))
    # 5.0e-8 of the quantile's fit, and half a unit in the last place of float32 at 4 to 6.34.
    np.testing.assert_allclose(values[tail], expected, rtol=0, atol=5.1e-8 + 2.0**-22)


def test_the_normal_law_reaches_six_standard_deviations():
    values = np.empty(2, np.float32)
    given = np.array([-(2**31), 2**31 - 1], np.int32)
    laws.LAWS["normal"].fill(1.0)(given, values, np.empty((3, 2), np.float32))
    assert values.tolist() == pytest.approx([-6.3379, 6.3379], abs=1e-3)  # quantile of 2^-33


@pytest.mark.parametrize("law", LAWS)
def test_no_value_is_beyond_the_limit(law):
    limit = LAWS[law].limit
    given = np.array([-(2**31), 2**31 - 1], np.int32)
    values = np.empty(2, np.float32)
    laws.LAWS[law].fill(1.0)(given, values, np.empty((3, 2), np.float32))
    if law != "normal":
        assert np.abs(values).max() <= np.float32(limit)


@pytest.mark.parametrize("law", LAWS)
def test_golden_values(law):
    x = draw(law, PAST_A_BLOCK, 1.0, 11, "float32")
    flat = x.ravel()
    chosen = tuple(v.hex() for v in flat[[0, BLOCK - 1, BLOCK, -1]].astype(float).tolist())
    assert (*chosen, hashlib.sha256(x.tobytes()).hexdigest()) == GOLDEN[law]


@pytest.mark.parametrize("threads", [2, 7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", LAWS)
def test_threads_change_no_value(law, dtype, threads):
    shape = (5, BLOCK)
    one = draw(law, shape, 0.3, 4, dtype, threads=1)
    assert np.array_equal(one, draw(law, shape, 0.3, 4, dtype, threads=threads))


@pytest.mark.parametrize("chunk", [2**10, 2**14])
def test_block_and_chunk_sizes_change_no_value(monkeypatch, chunk):
    expected = draw("normal", PAST_A_BLOCK, 0.3, 4, "float32")
    monkeypatch.setattr(sampling, "_CHUNK", chunk)
    monkeypatch.setattr(sampling, "_BLOCK", 4 * chunk)
    assert np.array_equal(expected, draw("normal", PAST_A_BLOCK, 0.3, 4, "float32"))


@pytest.mark.parametrize("first", [1, 1023, 1024, 98765])
@pytest.mark.parametrize("law", LAWS)
def test_a_block_can_begin_at_any_element(monkeypatch, law, first):
    whole = draw(law, PAST_A_BLOCK, 0.3, 4, "float32").ravel()
    monkeypatch.setattr(sampling, "_CHUNK", 1024)
    part = np.empty(5000, np.float32)
    fill, factor = sampling._filler(laws.LAWS[law], 0.3, "float32")
    read = sampling.word_reader(4, PAST_A_BLOCK)
    sampling._fill_block(fill, read, first, part, "float32", factor)
    assert np.array_equal(part, whole[first : first + 5000])


def test_what_fails_in_another_thread_is_raised():
    caller = threading.get_ident()
    begun = threading.Event()

    def block(start):
        if threading.get_ident() != caller:
            begun.set()
            raise MemoryError("in a helper")
        begun.wait(60)  # the caller leaves blocks to the helper

    with pytest.raises(MemoryError, match="in a helper"):
        sampling.in_blocks(block, range(4), 2)


def test_the_caller_draws_all_blocks_where_no_thread_can_start(monkeypatch):
    def submit(*arguments):
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    expected = draw("normal", PAST_A_BLOCK, 0.3, 4, "float32")
    monkeypatch.setattr(sampling.ThreadPoolExecutor, "submit", submit)
    assert np.array_equal(draw("normal", PAST_A_BLOCK, 0.3, 4, "float32", threads=2), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_blocks_are_drawn_in_as_many_threads_as_are_asked_for(monkeypatch, threads):
    used, fill, meet = set(), sampling._fill_block, threading.Barrier(threads, timeout=600)

    def watched(*arguments):
        if threading.get_ident() not in used:  # every thread waits once until all have begun
            used.add(threading.get_ident())
            meet.wait()
        fill(*arguments)

    monkeypatch.setattr(sampling, "_fill_block", watched)
    draw("normal", (4 * threads, 2**18), 1.0, 0, "float32", threads=threads)
    assert len(used) == threads


def test_the_environment_sets_the_number_of_threads(monkeypatch):
    monkeypatch.setenv("KERAS_HE_NUM_THREADS", "7")
    assert sampling.thread_count() == 7


@pytest.mark.parametrize("setting", ["0", "-1", "two", "", "1.5"])
def test_a_wrong_number_of_threads_is_named(monkeypatch, setting):
    monkeypatch.setenv("KERAS_HE_NUM_THREADS", setting)
    with pytest.raises(InvalidArgument, match="KERAS_HE_NUM_THREADS.*positive integer"):
        draw("normal", (2, 2), 1.0, 1, "float32")


@pytest.mark.parametrize("law", LAWS)
def test_low_precision_is_the_float32_draw_rounded_last(law):
    x = draw(law, (301, 77), 0.3, 4, "float32")
    half = draw(law, (301, 77), 0.3, 4, "float16")
    assert np.array_equal(half, x.astype(np.float16))
    brain = numbers(draw(law, (301, 77), 0.3, 4, "bfloat16"), "bfloat16")
    assert np.array_equal(brain, nearest_bfloat16(x))
    double = draw(law, (301, 77), 0.3, 4, "float64")
    np.testing.assert_allclose(double, x, rtol=1e-6, atol=0)  # std is folded into x
    assert np.array_equal(double, draw(law, (301, 77), 1.0, 4, "float32").astype(float) * 0.3)


def nearest_bfloat16(x):
    """Returns x rounded to 8 significant bits, ties to even, by arithmetic alone."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(mantissa * 256) / 256, exponent)


def test_bfloat16_has_many_values_and_few_zeros():
    bits = draw("normal", (1024, 1024), 0.04, 6, "bfloat16")
    assert np.unique(bits).size > 2500
    assert np.mean(numbers(bits, "bfloat16") == 0) < 1e-4


@pytest.mark.parametrize("law", LAWS)
def test_shapes_under_one_seed_are_uncorrelated(law):
    draws = [
        draw(law, s, 1.0, 5, "float32") for s in ((512, 512), (512, 511), (262144,), (256, 1024))
    ]
    for i, x in enumerate(draws):
        for y in draws[:i]:
            assert_uncorrelated(x, y, law, ALPHA)


@pytest.mark.parametrize("law", LAWS)
def test_seeds_and_blocks_are_uncorrelated(law):
    x = draw(law, (2, BLOCK), 1.0, 5, "float32")
    assert_uncorrelated(x[0], x[1], law)
    assert_uncorrelated(x, draw(law, (2, BLOCK), 1.0, 6, "float32"), law)
    assert_uncorrelated(x[0, :-1], x[0, 1:], law)


@pytest.mark.parametrize("shape", [(64, 64), (), (2**32 - 1, 0), (2**32, 0)], ids=str)
@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**32, 2**127 + 3, 2**128 - 1, 2**128, (5, 2**40)])
def test_a_stream_is_keyed_by_seed_and_shape(seed, shape):
    key = np.random.SeedSequence(seed, spawn_key=(len(shape), *shape))
    assert np.array_equal(sampling._stream(seed, shape).generate_state(8), key.generate_state(8))


def test_a_generator_state_and_a_large_seed_are_keys_of_their_own():
    draws = [draw("normal", (8, 8), 1.0, s, "float32") for s in (5, (5, 1), 2**64 + 5, (6, 0))]
    assert len({x.tobytes() for x in draws}) == 4
    assert np.array_equal(draws[0], draw("normal", (8, 8), 1.0, (5, 0), "float32"))


@pytest.mark.parametrize("std", [1e-35, 1e-20, 1e-5, 1e5, 1e20, 1e37])
@pytest.mark.parametrize("law", LAWS)
def test_any_standard_deviation_scales_the_same_draw(law, std):
    unit = draw(law, (64, 64), 1.0, 3, "float32").astype(np.float64)
    x = draw(law, (64, 64), std, 3, "float32").astype(np.float64)
    # Four roundings of coefficients and products; subnormal numbers have fewer digits.
    np.testing.assert_allclose(x, unit * std, rtol=1e-6, atol=2.0**-149)


@pytest.mark.parametrize(
    ("dtype", "std"), [("float16", 2e4), ("float32", 1e38), ("float32", np.inf)]
)
def test_overflow_is_refused(dtype, std):
    with pytest.raises(InvalidArgument, match=rf"`std` must be small enough.*{dtype}"):
        draw("normal", (2, 2), std, 1, dtype)


@pytest.mark.parametrize("shape", [(1,), (7, 5), (129, 1, 3)])
def test_memory_is_aligned_and_contiguous(shape):
    for dtype in (np.float16, np.uint16, np.float32, np.float64):
        array = aligned_empty(shape, dtype)
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
