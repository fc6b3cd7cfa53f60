"""The statistical helper itself: it catches wrong laws, and rarely alarms at right ones."""

import numpy as np
import pytest
from bounds import LAWS, assert_law, assert_second_moment, assert_uncorrelated
from scipy import stats

COUNT = 512 * 512
RIGHT = {law: LAWS[law].distribution.rvs(COUNT, random_state=1) for law in LAWS}

WRONG = {
    "uncorrected truncation": ("truncated_normal", stats.truncnorm(-2, 2)),
    "gain 1 for sqrt 2": ("normal", stats.norm(scale=1 / np.sqrt(2))),
    "uniform without sqrt 3": ("uniform", stats.uniform(-1, 2)),
    "normal for uniform": ("uniform", stats.norm()),
    "uniform for normal": ("normal", stats.uniform(-np.sqrt(3), 2 * np.sqrt(3))),
    "normal for truncated": ("truncated_normal", stats.norm()),
    "lost sign": ("normal", stats.foldnorm(0)),
    **{f"{law} 2 % too wide": (law, 1.02) for law in LAWS},
    **{f"{law} 2 % too narrow": (law, 0.98) for law in LAWS},
}


@pytest.mark.parametrize("law", LAWS)
def test_a_right_sample_passes(law):
    assert_law(RIGHT[law] * 0.07, law, 0.07)


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_sample_is_caught(fault):
    law, wrong = WRONG[fault]
    sample = RIGHT[law] * wrong if isinstance(wrong, float) else wrong.rvs(COUNT, random_state=2)
    with pytest.raises(AssertionError):
        assert_law(sample, law, 1.0)


@pytest.mark.parametrize("law", LAWS)
def test_two_percent_is_caught_by_the_second_moment_alone(law):
    for factor in (0.98, 1.02):
        with pytest.raises(AssertionError, match="second moment"):
            assert_second_moment(RIGHT[law] * factor, law, 1e-9)


def test_nan_is_caught():
    sample = RIGHT["normal"].copy()
    sample[3] = np.nan
    with pytest.raises(AssertionError, match="finite"):
        assert_law(sample, "normal", 1.0)


@pytest.mark.parametrize("law", LAWS)
def test_a_repeated_sample_is_caught(law):
    x = RIGHT[law]
    assert_uncorrelated(x[: COUNT // 2], x[COUNT // 2 :], law)
    with pytest.raises(AssertionError, match="correlation"):
        assert_uncorrelated(x, x, law)


@pytest.mark.parametrize("law", LAWS)
def test_false_alarms_are_as_rare_as_promised(law):
    """Counts alarms at alpha 0.3 (of three assertions, so at most 0.9 a sample), one by one."""
    samples = LAWS[law].distribution.rvs((400, 1000), random_state=3)
    alarms = 0
    for sample in samples:
        try:
            assert_second_moment(sample, law, 0.3)
        except AssertionError:
            alarms += 1
    # Hoeffding: 400 trials exceed their expectation by 0.17 with probability below 1e-9.
    assert 0 < alarms / 400 <= 0.3 + 0.17
