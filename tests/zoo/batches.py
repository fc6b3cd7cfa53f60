"""Batches of the zoo: small, fixed, and of the scale that real data has after preparation."""

import numpy as np

SAMPLES = 32


def normal(*shape, seed=0):
    """Returns standard normal numbers."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((SAMPLES, *shape)).astype("float32")


def uniform(*shape, low=0.0, high=1.0, seed=0):
    """Returns uniform numbers."""
    return np.random.default_rng(seed).uniform(low, high, (SAMPLES, *shape)).astype("float32")


def images(size=16, channels=3, seed=0):
    """Returns smooth images with values from 0 to 255."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (SAMPLES, 4, 4, channels))
    fine = np.repeat(np.repeat(coarse, size // 4, axis=1), size // 4, axis=2)
    return fine.astype("float32")


def tokens(length=12, vocabulary=50, seed=0, dtype="int32"):
    """Returns ids from 1 on; 0 is the padding."""
    return np.random.default_rng(seed).integers(1, vocabulary, (SAMPLES, length)).astype(dtype)


def waves(length=32, channels=1, seed=0):
    """Returns sums of sines with noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(length)[:, None]
    phases = rng.uniform(0, 6.28, (SAMPLES, 1, channels))
    noise = 0.1 * rng.standard_normal((SAMPLES, length, channels))
    return (np.sin(0.4 * time + phases) + noise).astype("float32")
