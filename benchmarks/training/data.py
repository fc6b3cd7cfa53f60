"""Data sets: small, generated or of scikit-learn, and the same in every run."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
SEED = 2026
TRAIN, VALIDATION = 2048, 512
SHAPES = 8
SYMBOLS = 12  # of the Markov chain
DIGITS = 10  # of the sequences to reverse
SAMPLES = 12  # along a ray


class Data(NamedTuple):
    """Inputs of a model, one array for each, and what its objective compares the outputs with."""

    inputs: tuple[Array, ...]
    targets: Array

    def take(self, rows: Any) -> "Data":
        """Returns some of the samples."""
        return Data(tuple(one[rows] for one in self.inputs), self.targets[rows])


def _generated(name: str, make: Callable[[np.random.Generator, int], Data]) -> Data:
    """Returns training data, followed by the data for validation."""
    generator = np.random.default_rng([SEED, *name.encode()])
    return make(generator, TRAIN + VALIDATION)


def _standardized(values: Array) -> Array:
    return ((values - values.mean()) / values.std()).astype("float32")


def _masks(x: Array, y: Array) -> list[Array]:
    """Returns which points are in each of the shapes, whose radius is 1."""
    radius, largest = np.hypot(x, y), np.maximum(abs(x), abs(y))
    cross = (np.minimum(abs(x), abs(y)) < 0.35) & (largest < 1)
    triangle = (y > -0.6) & (y < 1 - 1.75 * abs(x))
    return [
        radius < 1,
        (radius < 1) & (radius > 0.55),
        largest < 0.8,
        (largest < 0.8) & (largest > 0.4),
        cross,
        triangle,
        (abs(x) < 1) & (abs(y) < 0.3),
        (radius < 1) & (x > 0),
    ]


def _drawn_shapes(generator: np.random.Generator, kinds: Array, size: int) -> Array:
    """Returns masks of shapes at random places, angles and sizes."""
    count = len(kinds)
    grid = (np.arange(size) + 0.5) / size * 2 - 1
    center = generator.uniform(-0.35, 0.35, (2, count, 1, 1))
    x, y = grid[None, None, :] - center[0], grid[None, :, None] - center[1]
    angle = generator.uniform(0, 2 * np.pi, (count, 1, 1))
    scale = generator.uniform(0.4, 0.65, (count, 1, 1))
    turned = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    masks = np.stack(_masks(turned[0] / scale, turned[1] / scale))
    found: Array = masks[kinds, np.arange(count)]
    return found


def _noisy(generator: np.random.Generator, images: Array) -> Array:
    return _standardized(images + 0.25 * generator.standard_normal(images.shape))[..., None]


@lru_cache
def shapes() -> Data:
    """Returns images of one of eight shapes, and its number."""

    def make(generator: np.random.Generator, count: int) -> Data:
        kinds = generator.integers(SHAPES, size=count)
        images = _drawn_shapes(generator, kinds, 16) * generator.uniform(0.5, 1.0, (count, 1, 1))
        return Data((_noisy(generator, images),), kinds)

    return _generated("shapes", make)


@lru_cache
def scenes() -> Data:
    """Returns images of three overlapping shapes, and for each pixel 0 or the number of one."""

    def make(generator: np.random.Generator, count: int) -> Data:
        labels, images = np.zeros((2, count, 16, 16))
        for _ in range(3):
            kinds = generator.choice([0, 2, 4], size=count)
            mask = _drawn_shapes(generator, kinds, 16)
            labels = np.where(mask, 1 + kinds[:, None, None] // 2, labels)
            images = np.where(mask, generator.uniform(0.5, 1.0, (count, 1, 1)), images)
        return Data((_noisy(generator, images),), labels.astype(int))

    return _generated("scenes", make)


@lru_cache
def images_and_blurred() -> Data:
    """Returns pairs of an image and a blurred other one, and uniform numbers in the targets."""

    def make(generator: np.random.Generator, count: int) -> Data:
        drawn = _drawn_shapes(generator, generator.integers(SHAPES, size=2 * count), 16)
        real, fake = _noisy(generator, drawn.astype(float)).reshape(2, count, 16, 16, 1)
        for axis in (1, 2):
            fake = (np.roll(fake, 1, axis) + fake + np.roll(fake, -1, axis)) / 3
        uniform = generator.uniform(size=count).astype("float32")
        return Data((np.stack([real, fake], axis=1),), uniform)

    return _generated("blurred", make)


def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(labels))
    return _standardized(images[order]), labels[order]


@lru_cache
def digits() -> Data:
    """Returns scikit-learn's digits as vectors, and their labels."""
    images, labels = _digits()
    return Data((images,), labels)


@lru_cache
def taught_digits() -> Data:
    """Returns the digits as images, and for each its label and what a teacher says."""
    from sklearn.linear_model import LogisticRegression

    images, labels = _digits()
    known = images[:-VALIDATION][:400], labels[:-VALIDATION][:400]
    teacher = LogisticRegression(C=0.01, max_iter=1000).fit(*known)
    return Data((images.reshape(-1, 8, 8, 1),), np.stack([labels, teacher.predict(images)], 1))


def _surfaces(generator: np.random.Generator, points: int) -> list[Array]:
    """Returns random points on six surfaces."""
    a, b = generator.uniform(0, 2 * np.pi, (2, points))
    t = generator.uniform(-1, 1, points)
    sphere = generator.standard_normal((points, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    cube = generator.uniform(-1, 1, (points, 3))
    cube[np.arange(points), generator.integers(3, size=points)] = generator.choice([-1, 1], points)
    ring = 1 + 0.4 * np.cos(b)
    return [
        sphere,
        0.8 * cube,
        np.stack([np.cos(a), np.sin(a), t], 1),
        np.stack([(1 - t) / 2 * np.cos(a), (1 - t) / 2 * np.sin(a), t], 1),
        np.stack([ring * np.cos(a), ring * np.sin(a), 0.4 * np.sin(b)], 1),
        np.stack([np.cos(6 * t), np.sin(6 * t), t], 1),
    ]


@lru_cache
def point_clouds() -> Data:
    """Returns clouds of 48 points on stretched and turned surfaces, and which surface it is."""

    def make(generator: np.random.Generator, count: int) -> Data:
        kinds = generator.integers(6, size=count)
        clouds = []
        for kind in kinds:
            cloud = _surfaces(generator, 48)[kind] * generator.uniform(0.6, 1.2, 3)
            turn = np.linalg.qr(generator.standard_normal((3, 3)))[0]
            clouds.append(cloud @ turn + 0.05 * generator.standard_normal((48, 3)))
        return Data((np.asarray(clouds, "float32"),), kinds)

    return _generated("clouds", make)


def _encoded(values: Array, octaves: int) -> Array:
    """Returns values with their sines and cosines at rising frequencies, as NeRF encodes them."""
    waves = [f(2.0**n * np.pi * values) for n in range(octaves) for f in (np.sin, np.cos)]
    return np.concatenate([values, *waves], axis=-1).astype("float32")


def _field(points: Array) -> tuple[Array, Array]:
    """Returns density and colour of a scene at points."""
    x, y, z = np.moveaxis(points, -1, 0)
    ball = np.linalg.norm(points, axis=-1) < 0.6
    ring = abs(np.hypot(np.hypot(x, y) - 0.75, z)) < 0.2
    colour = 0.5 + 0.5 * np.sin(np.stack([5 * x, 7 * y + z, 6 * z - 3 * x], -1))
    return 8.0 * ball + 8.0 * ring, colour


@lru_cache
def rays() -> Data:
    """Returns encoded points and directions along rays, and the colour that each ray shows."""

    def make(generator: np.random.Generator, count: int) -> Data:
        origin = generator.standard_normal((count, 1, 3))
        origin *= 2 / np.linalg.norm(origin, axis=-1, keepdims=True)
        towards = generator.uniform(-0.6, 0.6, (count, 1, 3)) - origin
        towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
        places = 0.8 + 2.4 * (np.arange(SAMPLES) + 0.5)[:, None] / SAMPLES
        points = origin + places * towards
        fine = 0.8 + 2.4 * (np.arange(96) + 0.5)[:, None] / 96
        density, colour = _field(origin + fine * towards)
        passed = np.exp(-np.cumsum(density, 1) * 2.4 / 96)
        before = np.concatenate([np.ones((count, 1)), passed[:, :-1]], 1)
        shown = ((before - passed)[..., None] * colour).sum(1).astype("float32")
        directions = np.broadcast_to(towards, points.shape)
        return Data((_encoded(points, 4), _encoded(directions, 2)), shown)

    return _generated("rays", make)


@lru_cache
def reversals() -> Data:
    """Returns sequences, the reversed ones one step later, and the reversed ones."""

    def make(generator: np.random.Generator, count: int) -> Data:
        given = generator.integers(DIGITS, size=(count, 6))
        wanted = given[:, ::-1].copy()
        start = np.full((count, 1), DIGITS)
        return Data((given, np.concatenate([start, wanted[:, :-1]], 1)), wanted)

    return _generated("reversals", make)


@lru_cache
def additions() -> Data:
    """Returns sequences of numbers of which two are marked, and the sum of these."""

    def make(generator: np.random.Generator, count: int) -> Data:
        numbers = generator.uniform(-1, 1, (count, 32))
        order = np.argsort(generator.uniform(size=(count, 32)), axis=1)
        marks = (order < 2).astype(float)
        inputs = np.stack([numbers, marks], -1).astype("float32")
        return Data((inputs,), (numbers * marks).sum(1, keepdims=True).astype("float32"))

    return _generated("additions", make)


@lru_cache
def sentences() -> Data:
    """Returns sequences of a Markov chain of order 2, and the symbols that follow."""

    def make(generator: np.random.Generator, count: int) -> Data:
        table = generator.dirichlet(np.full(SYMBOLS, 0.15), size=(SYMBOLS, SYMBOLS)).cumsum(-1)
        text = [*generator.integers(SYMBOLS, size=(2, count))]
        for _ in range(15):
            below = generator.uniform(size=(count, 1)) > table[text[-2], text[-1]]
            text.append(np.minimum(below.sum(1), SYMBOLS - 1))
        whole = np.stack(text, 1)
        return Data((whole[:, :-1],), whole[:, 1:])

    return _generated("sentences", make)


@lru_cache
def graphs() -> Data:
    """Returns noisy features of nodes, edges of graphs with four communities, and the latter."""

    def make(generator: np.random.Generator, count: int) -> Data:
        communities = generator.integers(4, size=(count, 24))
        same = communities[:, :, None] == communities[:, None, :]
        edges = generator.uniform(size=same.shape) < np.where(same, 0.5, 0.06)
        edges = np.triu(edges, 1)
        edges = edges | edges.swapaxes(1, 2) | np.eye(24, dtype=bool)
        prototypes = generator.standard_normal((4, 8))
        features = prototypes[communities] + 1.5 * generator.standard_normal((count, 24, 8))
        return Data((_standardized(features), edges.astype("float32")), communities)

    return _generated("graphs", make)
