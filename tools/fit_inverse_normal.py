"""Fits the rational functions of keras_he/sampling/laws.py; prints them with their largest error.

Run it with SciPy at hand: `python tools/fit_inverse_normal.py`. A coefficient that changes is a
*Numbers* entry in the change log, for it changes what every seed draws.
"""

import numpy as np
from scipy.special import erf, erfinv, ndtri


def chebyshev_points(low: float, high: float, count: int = 4000) -> np.ndarray:
    angles = np.pi * (np.arange(count) + 0.5) / count
    return (low + high) / 2 + (high - low) / 2 * np.cos(angles)


def minimax(x, target, weight, numerator: int, denominator: int, rounds: int = 300):
    """Lawson's reweighted least squares on P - target * Q; returns (error, P, Q), lowest first."""
    powers = np.vander(x, max(numerator, denominator) + 1, increasing=True)
    above, below = powers[:, : numerator + 1], powers[:, 1 : denominator + 1]
    lawson, previous, best = np.ones(len(x)), np.ones(len(x)), (np.inf, None, None)
    for _ in range(rounds):
        scale = (weight * np.sqrt(lawson) / previous)[:, None]
        matrix = np.hstack([above, -target[:, None] * below])
        solution, *_ = np.linalg.lstsq(matrix * scale, target * scale[:, 0], rcond=None)
        p, q = solution[: numerator + 1], np.r_[1.0, solution[numerator + 1 :]]
        previous = powers[:, : denominator + 1] @ q
        error = np.abs(weight * (above @ p / previous - target))
        if error.max() < best[0]:
            best = (error.max(), p / q[-1], q / q[-1])
        lawson = lawson * error
        lawson /= lawson.sum()
    return best


def show(name: str, fit) -> None:
    error, p, q = fit
    print(f"{name}: largest error {error:.1e}\n  P = {p.tolist()}\n  Q = {q.tolist()}")


def central(limit: float, numerator: int, denominator: int):
    t = chebyshev_points(np.sqrt(1 - limit**2), 1.0)
    u = np.sqrt(1 - t * t)
    return minimax(t, np.sqrt(2) * erfinv(u) / u, u, numerator, denominator)


if __name__ == "__main__":
    show("normal, |u| <= 0.98", central(0.98, 2, 3))
    show("truncated normal", central(float(erf(np.sqrt(2.0))), 2, 2))
    r = chebyshev_points(np.sqrt(-2 * np.log(0.0105)), np.sqrt(-2 * np.log(2.0**-33)))
    show("tail, r = sqrt(-2 log p)", minimax(r, -ndtri(np.exp(-r * r / 2)), 1 + 0 * r, 3, 2))
