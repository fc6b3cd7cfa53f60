"""Statistical assertions with proven bounds: each raises a false alarm with probability <= alpha.

They hold for n independent values of a law with mean 0 and standard deviation `std`:

- mean: all three laws are sub-Gaussian, the normal with variance proxy std², a law on ±b with b²
  (Hoeffding), so P(|mean| >= t) <= 2 exp(-n t² / (2 proxy)).
- second moment: for the normal law n·m/std² is chi-squared, P(m/std² - 1 >= 2√(l/n) + 2l/n) <= e^-l
  and P(m/std² - 1 <= -2√(l/n)) <= e^-l (Laurent and Massart 2000, lemma 1). For a law on ±b,
  Bernstein with |x² - std²| <= b² and the variance of x²: P(|m - std²| >= t) <= 2 exp(-l) at
  t = √(2 v l/n) + b² l/(3n)  (Boucheron, Lugosi, Massart 2013, corollary 2.11).
- distribution: Dvoretzky-Kiefer-Wolfowitz, P(sup |F_n - F| >= t) <= 2 exp(-2 n t²) (Massart 1990).
- correlation of two independent samples: 4xy = (x + y)² - (x - y)², two chi-squared for normal
  values, each within the bounds above; Hoeffding with |xy| <= b² for the laws on ±b.

A 2 % error in std at n = 512² moves the second moment by 4.04 % (or -3.96 %), and the widest band,
the normal law's at alpha = 1e-9, is 1.83 %; what remains, 2.1 %, is beyond the band of a sample of
that other law too, so the error is missed with probability <= 1e-9.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

ALPHA = 1e-9


class Law(NamedTuple):
    """A law of standard deviation 1, from SciPy, independent of the package's quantiles."""

    distribution: stats.rv_continuous
    limit: float  # largest absolute value, infinite for the normal law
    kurtosis: float  # fourth moment


_CUT = stats.truncnorm(-2, 2)
LAWS = {
    "normal": Law(stats.norm(), math.inf, 3.0),
    "uniform": Law(stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)), math.sqrt(3), 9 / 5),
    "truncated_normal": Law(
        stats.truncnorm(-2, 2, scale=1 / _CUT.std()),
        2 / _CUT.std(),
        _CUT.moment(4) / _CUT.var() ** 2,
    ),
}
# Half a unit in the last of 11, 8 or 24 significant bits: rounding moves a value by that share of
# itself at most. Float64 holds float32 draws.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-24}


def assert_law(values, law: str, std: float, dtype: str = "float32", alpha: float = ALPHA) -> None:
    """Asserts mean, second moment and distribution; `values` are those of a law scaled to `std`."""
    x = np.asarray(values, np.float64).ravel() / std
    assert np.isfinite(x).all(), "values are not finite"
    rounding = ROUNDING[dtype]
    # The last factor is for the two float32 products that make a value of a limited law.
    limit = LAWS[law].limit * (1 + rounding) * (1 + 2.0**-22)
    assert abs(x).max() <= limit, "a value is beyond the limit"
    assert_mean(x, law, alpha)
    assert_second_moment(x, law, alpha, rounding)
    assert_distribution(x, law, alpha, rounding)


def assert_mean(x, law: str, alpha: float) -> None:
    proxy = min(LAWS[law].limit, 1.0 if law == "normal" else math.inf) ** 2
    band = math.sqrt(2 * proxy * math.log(2 / alpha) / x.size)
    assert abs(x.mean()) <= band, f"mean {x.mean():.3g} is beyond {band:.3g}"


def second_moment_band(law: str, count: int, alpha: float) -> tuple[float, float]:
    """Returns how far below and above 1 the mean square of `count` values may lie."""
    limit, kurtosis = LAWS[law].limit, LAWS[law].kurtosis
    level = math.log(2 / alpha) / count
    if law == "normal":
        return 2 * math.sqrt(level), 2 * math.sqrt(level) + 2 * level
    band = math.sqrt(2 * (kurtosis - 1) * level) + limit**2 * level / 3
    return band, band


def assert_second_moment(x, law: str, alpha: float, rounding: float = 0.0) -> None:
    below, above = second_moment_band(law, x.size, alpha)
    moment = float(np.mean(np.square(x)))
    # Rounding to nearest is even: it adds its own mean square at most.
    assert 1 - below - rounding**2 <= moment <= 1 + above + rounding**2, (
        f"second moment is {moment:.4f} times the right one"
    )


def assert_distribution(x, law: str, alpha: float, rounding: float = 0.0) -> None:
    ordered = np.sort(x)
    expected = LAWS[law].distribution.cdf(ordered)
    steps = np.arange(x.size + 1) / x.size
    distance = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
    # Moving x by a share r of itself moves F by r·|x|·f(x): at most r/2 for these three laws.
    band = math.sqrt(math.log(2 / alpha) / (2 * x.size)) + rounding / 2
    assert distance <= band, f"distribution is off by {distance:.4f}, more than {band:.4f}"


def assert_uncorrelated(x, y, law: str, alpha: float = ALPHA) -> None:
    """Asserts that two independent samples of standard deviation 1 do not resemble each other."""
    count = min(x.size, y.size)
    product = float(np.mean(x.ravel()[:count] * y.ravel()[:count]))
    if law == "normal":
        level = math.log(4 / alpha) / count
        band = 2 * math.sqrt(level) + level
    else:
        band = LAWS[law].limit ** 2 * math.sqrt(2 * math.log(2 / alpha) / count)
    assert abs(product) <= band, f"correlation {product:.3f} is beyond {band:.3f}"
