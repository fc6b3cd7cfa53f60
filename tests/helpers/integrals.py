"""Moments by SciPy's adaptive quadrature of a written derivative: independent of the package."""

import math
from itertools import pairwise

import numpy as np
from scipy import integrate

REACH = 14.0  # the widest integrand here, E[e^6z], has its peak at 6


def integrated(function, slope, breakpoints=()):
    """Returns `E[f²]`, `E[f'²]` and `E[z·f·f']` of a function smooth between the breakpoints."""
    edges = sorted({*np.arange(-REACH, REACH + 1), *breakpoints})

    def moment(integrand):
        def weighted(z):
            density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
            return density * float(integrand(np.float64(z)))

        return sum(
            integrate.quad(weighted, left, right, epsabs=1e-14, epsrel=1e-11, limit=500)[0]
            for left, right in pairwise(edges)
        )

    return np.array(
        [
            moment(lambda z: function(z) ** 2),
            moment(lambda z: slope(z) ** 2),
            moment(lambda z: z * function(z) * slope(z)),
        ]
    )


def assert_moments(found, expected, tolerance):
    """Asserts relative errors; that of the depth moment, which may vanish, by both others."""
    sizes = np.array([expected[0], expected[1], math.sqrt(expected[0] * expected[1])])
    errors = np.abs(np.array(found) - expected)
    assert (errors <= tolerance * sizes).all(), (found, expected, errors / sizes)
