"""The tables and the plot of `benchmarks/run.py`, made from its measurements alone."""

import statistics
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

from timing import median

Rows = list[dict[str, Any]]
IDLE = 1.8  # what a second thread gains a loop that needs nothing, where a second core is idle
LAWS = ("KaimingNormal", "KaimingTruncatedNormal", "KaimingUniform")
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch", "numpy": "NumPy"}


class Table(NamedTuple):
    """A title, the heads of the columns, and the lines below them."""

    title: str
    heads: list[str]
    lines: list[list[str]]

    def markdown(self) -> str:
        """Returns the table as Markdown, with aligned columns."""
        rows = [self.heads, *self.lines]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.heads))]
        rule = ["-" * width for width in widths]
        lines = [
            "| "
            + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            + " |"
            for row in [self.heads, rule, *self.lines]
        ]
        return f"**{self.title}**\n\n" + "\n".join(lines) + "\n"


def tables(rows: Rows) -> list[Table]:
    """Returns every table for which there are measurements."""
    made = [*required(rows), *draws(rows), *threads(rows), *calls(rows), *memory(rows)]
    made += [*stages(rows), *building(rows), *layers(rows), *loading(rows)]
    made += [*initializing(rows), *startup(rows)]
    return [table for table in made if table.lines]


def pick(rows: Rows, **of: Any) -> Rows:
    """Returns the measurements that have these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in of.items())]


def one(rows: Rows, **of: Any) -> dict[str, Any] | None:
    """Returns the one measurement that has these values, if it was made."""
    found = pick(rows, **of)
    return found[0] if found else None


def values(rows: Rows, key: str) -> list[Any]:
    """Returns the different values of a key, in order of appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def ratio(of: dict[str, Any] | None, by: dict[str, Any] | None) -> float | None:
    """Returns how many times longer the first takes than the second."""
    return median(of) / median(by) if of and by else None


def required(rows: Rows) -> Iterable[Table]:
    """Yields the promises of the project and the measured values."""
    large = pick(rows, table="draw", dtype="float32", size=64 * 10**6)
    small = pick(rows, table="call", shape=[64, 64])
    normal, truncated, uniform = LAWS
    lines: list[list[str]] = []

    def promise(what: str, measured: float | None, bound: float, most: bool = False) -> None:
        if measured is not None:
            holds = measured <= bound if most else measured >= bound
            sign = "≤" if most else "≥"
            lines.append([what, f"{sign} {bound}", f"{measured:.2f}", "yes" if holds else "no"])

    def promise_idle(what: str, slow: Rows, fast: Rows, bound: float) -> None:
        if slow and fast:
            told = idle_gain(slow[0], fast[0])
            promise(f"{what}, second core idle", told, bound)
            if told is None:
                lines.append([f"{what}, second core idle", f"≥ {bound}", "", "it was busy"])

    for backend, mine, peer, bound in (
        ("tensorflow", normal, "keras HeNormal", 2.5),
        ("tensorflow", normal, "keras untruncated", 1.5),
        ("tensorflow", truncated, "keras HeNormal", 3.5),
        ("tensorflow", uniform, "keras HeUniform", 2.5),
        ("jax", normal, "keras HeNormal", 2.5),
        ("jax", truncated, "keras HeNormal", 3.5),
        ("jax", uniform, "keras HeUniform", 5),
    ):
        here = pick(large, backend=backend)
        times = ratio(one(here, what=peer), one(here, what=mine))
        promise(f"{BACKENDS[backend]}: {mine}, times as fast as {peer}", times, bound)
    for backend, bound in (("tensorflow", 0.2), ("jax", 0.4)):
        here = pick(small, backend=backend)
        share = ratio(one(here, what=normal), one(here, what="keras HeNormal"))
        what = f"{BACKENDS[backend]}: one (64, 64) kernel, share of keras HeNormal's time"
        promise(what, share, bound, most=True)
    chain = pick(rows, table="build", backend="tensorflow", network="300 layers of (64, 64)")
    share = ratio(one(chain, what="he_*"), one(chain, what="Keras' defaults"))
    promise(
        "TensorFlow: building 300 small layers, share of the defaults' time", share, 1, most=True
    )
    for backend in ("tensorflow", "jax", "torch"):
        taken = [
            row["bytes"] / row["tensor"]
            for row in pick(rows, table="memory", backend=backend)
            if row["size"] >= 8192 * 8192 and not row["what"].startswith("keras")
        ]
        what = f"{BACKENDS[backend]}: peak memory over the tensor's, the most of all"
        promise(what, max(taken, default=None), 1.05, most=True)
    for law in LAWS:
        speeds = [
            row["size"] / median(row)
            for row in pick(rows, table="draw", backend="tensorflow", dtype="float32", what=law)
            if row["size"] >= 10**7
        ]
        spread = max(speeds) / min(speeds) if len(speeds) > 1 else None
        promise(f"TensorFlow: {law}, fastest over slowest from 1e7 values", spread, 1.3, most=True)
    for law, peer, bound in (
        (normal, "torch kaiming_normal_", 1.2),
        (uniform, "torch kaiming_uniform_", 1.8),
    ):
        slow, fast = (pick(rows, table="threads", backend="torch", what=w) for w in (peer, law))
        what = f"PyTorch: {law}, times as fast as {peer}"
        promise_idle(what, slow, pick(fast, threads=2), bound)
    for law in LAWS[:2]:
        single = pick(rows, table="threads", backend="tensorflow", what=law, threads=1)
        double = pick(rows, table="threads", backend="tensorflow", what=law, threads=2)
        promise_idle(f"{law}: two threads, times as fast as one", single, double, 1.6)
    yield Table("What is promised", ["", "promised", "measured", "holds"], lines)


def idle_gain(slow: dict[str, Any], fast: dict[str, Any]) -> float | None:
    """Returns how many times longer the first took, in the rounds where the second had two cores.

    The median over those rounds, or None where they are fewer than three.
    """
    rounds = zip(slow["seconds"], fast["seconds"], fast["second_core"], strict=True)
    gains = [one / other for one, other, idle in rounds if idle >= IDLE]
    return statistics.median(gains) if len(gains) >= 3 else None


def draws(rows: Rows) -> Iterable[Table]:
    """Yields millions of values a second, by backend and dtype."""
    found = pick(rows, table="draw")
    for backend in values(found, "backend"):
        for dtype in values(found, "dtype"):
            here = pick(found, backend=backend, dtype=dtype)
            sizes = values(here, "size")
            lines = []
            for what in values(here, "what"):
                cells = [one(here, what=what, size=size) for size in sizes]
                lines.append([what, *(_rate(row) for row in cells)])
            title = f"{BACKENDS[backend]}, {dtype}: millions of values a second, by size"
            yield Table(title, ["", *(f"{size:.2g}" for size in sizes)], lines)


def _rate(row: dict[str, Any] | None) -> str:
    return f"{row['size'] / median(row) / 1e6:.0f}" if row else ""


def threads(rows: Rows) -> Iterable[Table]:
    """Yields how a draw grows with threads, and what the second core had to give."""
    for backend in values(pick(rows, table="threads"), "backend"):
        found = pick(rows, table="threads", backend=backend)
        counts = values(found, "threads")
        lines = []
        for what in values(found, "what"):
            cells = [one(found, what=what, threads=count) for count in counts]
            several = cells[-1] or found[-1]
            control = several["second_core"]
            gain = idle_gain(cells[0], several) if cells[0] else None
            lines.append(
                [
                    what,
                    *(_rate(row) for row in cells),
                    f"{statistics.median(control):.2f}",
                    f"{sum(idle >= IDLE for idle in control)} of {len(control)}",
                    "" if gain is None else f"{gain:.2f}",
                ]
            )
        title = (
            f"{BACKENDS[backend]}: millions of values a second, by threads; the control is what a "
            f"second thread gains a loop that needs no lock and no memory, idle from {IDLE}"
        )
        header = [f"threads: {count}" for count in counts]
        header += ["control", "rounds with an idle core", "gain in those"]
        yield Table(title, ["", *header], lines)


def calls(rows: Rows) -> Iterable[Table]:
    """Yields microseconds a call for small kernels."""
    found = pick(rows, table="call")
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in found))
    for backend in values(found, "backend"):
        here = pick(found, backend=backend)
        lines = []
        for what in values(here, "what"):
            cells = [one(here, what=what, shape=list(shape)) for shape in shapes]
            lines.append([what, *(f"{1e6 * median(row):.0f}" if row else "" for row in cells)])
        title = f"{BACKENDS[backend]}: microseconds for one kernel"
        yield Table(title, ["", *(str(shape) for shape in shapes)], lines)


def memory(rows: Rows) -> Iterable[Table]:
    """Yields peak memory over the tensor's."""
    found = pick(rows, table="memory")
    for backend in values(found, "backend"):
        here = pick(found, backend=backend)
        sizes = sorted(set(values(here, "size")))
        lines = []
        for dtype in values(here, "dtype"):
            for what in values(pick(here, dtype=dtype), "what"):
                cells = [one(here, dtype=dtype, what=what, size=size) for size in sizes]
                lines.append([f"{what}, {dtype}", *(_peak(row) for row in cells)])
        title = f"{BACKENDS[backend]}: peak memory over the tensor's, by size"
        yield Table(title, ["", *(f"{size:.2g}" for size in sizes)], lines)


def _peak(row: dict[str, Any] | None) -> str:
    if not row:
        return ""
    if row["tensor"] < 32 * 2**20:
        return f"{round((row['bytes'] - row['tensor']) / 2**20, 1) + 0.0:+.1f} MiB"
    return f"{row['bytes'] / row['tensor']:.3f}"


def stages(rows: Rows) -> Iterable[Table]:
    """Yields where the time of a draw goes."""
    for unit, scale, name in (("value", 1e9, "ns a value"), ("call", 1e6, "µs a call")):
        found = pick(rows, table="stage", unit=unit)
        lines = [[row["what"], f"{scale * median(row):.2f}"] for row in found]
        yield Table(f"Where the time goes, one thread: {name}", ["", name], lines)


def building(rows: Rows) -> Iterable[Table]:
    """Yields the seconds of building networks, and their share of the defaults'."""
    yield from _by_network(rows, "build", "building", "Keras' defaults")


def initializing(rows: Rows) -> Iterable[Table]:
    """Yields the seconds of `initialize` beside its peer's."""
    yield from _by_network(rows, "initialize", "initializing", "keras_he.initialize")


def _by_network(rows: Rows, table: str, verb: str, base: str) -> Iterable[Table]:
    found = pick(rows, table=table)
    for backend in values(found, "backend"):
        here = pick(found, backend=backend)
        names = values(here, "network")
        lines = []
        for what in values(here, "what"):
            cells = [one(here, what=what, network=name) for name in names]
            bases = [one(here, what=base, network=name) for name in names]
            lines.append([what, *map(_seconds, cells, bases)])
        title = f"{BACKENDS[backend]}: seconds of {verb}, and as a multiple of {base}"
        yield Table(title, ["", *names], lines)


def _seconds(row: dict[str, Any] | None, base: dict[str, Any] | None) -> str:
    times = ratio(row, base)
    return "" if not row else f"{median(row):.3g}" + (f" ({times:.2f})" if times else "")


def layers(rows: Rows) -> Iterable[Table]:
    """Yields how building grows with layers."""
    found = [row for row in pick(rows, table="build") if row["network"].endswith("(64, 64)")]
    lines = []
    names = values(found, "network")
    for backend in values(found, "backend"):
        for what in values(pick(found, backend=backend), "what"):
            cells = [one(found, backend=backend, what=what, network=name) for name in names]
            counts = [int(name.split()[0]) for name in names]
            each = [
                f"{1e3 * median(row) / count:.2f}" if row else ""
                for row, count in zip(cells, counts, strict=True)
            ]
            lines.append([f"{BACKENDS[backend]}, {what}", *each])
    yield Table("Growth with layers: milliseconds a layer", ["", *names], lines)


def loading(rows: Rows) -> Iterable[Table]:
    """Yields the seconds of `load_model`."""
    for backend in values(pick(rows, table="load"), "backend"):
        found = pick(rows, table="load", backend=backend)
        lines = [
            [row["what"], f"{median(row):.2f}", f"{ratio(row, found[0]):.2f}"] for row in found
        ]
        title = (
            f"{BACKENDS[backend]}: load_model of {found[0]['parameters'] / 1e6:.0f} M parameters"
        )
        yield Table(title, ["", "seconds", f"share of {found[0]['what']}"], lines)


def startup(rows: Rows) -> Iterable[Table]:
    """Yields the time of imports."""
    lines = [[row["what"], f"{1e3 * median(row):.0f}"] for row in pick(rows, table="startup")]
    yield Table("Start", ["", "ms"], lines)


def plot(rows: Rows, path: str, note: str) -> None:
    """Writes a picture: the speed of draws by size, on each backend."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = pick(rows, table="draw", dtype="float32")
    backends = values(found, "backend")
    figure, axes = pyplot.subplots(
        1,
        max(1, len(backends)),
        figsize=(5.2 * max(1, len(backends)), 5.4),
        sharey=True,
        squeeze=False,
    )
    for axis, backend in zip(axes[0][: len(backends)], backends, strict=True):
        here = pick(found, backend=backend)
        for what in values(here, "what"):
            line = sorted(pick(here, what=what), key=lambda row: row["size"])
            x = [row["size"] for row in line]
            y = [row["size"] / median(row) for row in line]
            axis.loglog(x, y, label=what, **_style(what))
        axis.set_title(BACKENDS[backend])
        axis.set_xlabel("values in one draw, float32")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    axes[0][0].set_ylabel("values a second")
    figure.suptitle(textwrap.fill(note, 32 * len(axes[0]) + 48), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _style(what: str) -> dict[str, Any]:
    color = "tab:blue"
    if "niform" in what:
        color = "tab:orange"
    if "Truncated" in what or what in ("keras HeNormal", "jax he_normal", "torch trunc_normal_"):
        color = "tab:green"
    if what == "memory fill":
        return {"color": "black", "linestyle": ":"}
    if what.startswith("Kaiming"):
        return {"color": color, "marker": "o", "linewidth": 2}
    line = "--" if what.startswith("keras") else "-."
    return {"color": color, "linestyle": line, "marker": "x", "linewidth": 1}
