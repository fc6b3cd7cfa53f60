"""Checks of the gradient, and of how an error of the signal grows."""

from collections.abc import Iterator
from statistics import median

from keras_he.audit_model.kernel_facts import ObservedVariable
from keras_he.audit_model.subject import NORMALIZED, OTHER_ACTIVATION, ZERO_BIAS, Subject
from keras_he.errors import KerasHeError
from keras_he.passes.backward import Extreme, extremes
from keras_he.reports.data import Finding
from keras_he.theory.activations import Activation, depth_factors

_UNSTOPPED = "# behind this layer, use operations that have a gradient"
_STEEP = 2.0  # factor of the gradient's squared length in one layer, due to its activation


def gradient(subject: Subject) -> Iterator[Finding]:
    """Yields where the gradient vanishes or explodes on its way back.

    It compares the squared length, for one sample, of the gradient with respect to a whole
    pre-activation; see `extremes`.
    """
    kernels = subject.kernels
    energies = [kernel.energy for kernel in kernels]
    intended = [kernel.intended for kernel in kernels]
    for one in extremes(energies, subject.thresholds["gradient"], intended):
        where = "before" if one.verdict == "vanishing" else "from"
        culprit = kernels[one.culprit]
        evidence = (
            f"gradient: its squared length is {energies[one.largest]:.3g} at "
            f"{kernels[one.largest].configured_layer}, but at most {energies[one.best]:.3g} "
        )
        on = "" if one.verdict == "vanishing" else " on"
        activation = _steep_activation(subject, one)
        if activation:
            evidence += f"{where} {culprit.configured_layer}{on}: the activations change it"
            yield Finding(one.verdict, activation, evidence, OTHER_ACTIVATION, (culprit.path,))
        else:
            evidence += f"{where} this layer{on}{subject.beyond}"
            yield subject.finding(one.verdict, culprit, evidence, subject.line(NORMALIZED))


def _steep_activation(subject: Subject, found: Extreme) -> str:
    """Returns the layer of an activation that is the cause of a gradient's size; empty if none is.

    It is the cause if it changes the squared length by a factor of 2 in one layer although the
    signal keeps its size: by its moments, or as measured where `initialize` has set the kernels.
    """
    kernels = subject.kernels
    factors = [_factor(kernel.expected, "gradient") for kernel in kernels if kernel.sources]
    factor = median(factors) if factors else 1.0
    if subject.initialized:
        between = max(abs(found.best - found.largest), 1)
        lost = kernels[found.largest].energy / kernels[found.best].energy
        measured = lost ** (1.0 / between)
        factor = max(factor, measured) if found.verdict == "exploding" else 1.0 / measured
    steep = factor >= _STEEP if found.verdict == "exploding" else factor <= 1.0 / _STEEP
    if not steep:
        return ""
    near = [one.units.layer for one in kernels[: found.culprit + 1] if one.units is not None]
    return near[-1] if near else ""


def no_gradient(subject: Subject) -> Iterator[Finding]:
    """Yields the kernels that get a signal and a gradient that is exactly 0, as one finding.

    Behind them a kernel of zeros, by no one's choice, is a finding itself.
    """
    lost = [one for one in subject.kernels if one.gets_no_gradient and not one.stopped_by_design]
    if not lost or any(one.std == 0.0 and not one.chosen for one in subject.kernels):
        return
    judged = sum(kernel.seen and kernel.moment != 0.0 for kernel in subject.kernels)
    layer, cause, remedy = lost[-1].configured_layer, "what follows has no gradient", _UNSTOPPED
    dead = [one for one in subject.kernels if one.units and one.units.dead == 1.0]
    if dead:
        last, cause = dead[-1], "all units of the following activation are dead"
        layer = last.configured_layer
        remedy = ZERO_BIAS if subject.has_large_bias(last) else subject.line(NORMALIZED)
    elif subject.silences:
        layer = subject.silences[-1].path
        cause, remedy = subject.cause_of(subject.silences[-1])
    evidence = f"gradient: it is exactly 0 at {len(lost)} of {judged} kernels that get a signal"
    paths = tuple(kernel.path for kernel in lost)
    yield Finding("vanishing", layer, f"{evidence}: {cause}", remedy, paths)


def depth(subject: Subject) -> Iterator[Finding]:
    """Yields where an error of the signal has grown too much since the last normalization."""
    for kernel, growth in growths(subject, restart=True):
        if growth >= subject.thresholds["depth"]:
            yield subject.finding(
                "unsafe-depth",
                kernel,
                f"an error of the signal has grown by a factor of {growth:.3g} since the last "
                f"normalization: the preceding activations are unsafe at this depth",
                NORMALIZED,
            )


def growths(subject: Subject, *, restart: bool) -> Iterator[tuple[ObservedVariable, float]]:
    """Yields each kernel and the growth of an error on the worst path; `restart`ed at limits."""
    grown: dict[int, float] = {}
    for kernel in subject.kernels:
        before = max((grown.get(one, 1.0) for one in kernel.sources), default=1.0)
        factor = _factor(kernel.expected, "signal") if kernel.sources else 1.0
        growth = max(before * factor, 1.0)
        yield kernel, growth
        over = restart and growth >= subject.thresholds["depth"]
        grown[id(kernel.variable)] = 1.0 if over else growth


def _factor(activation: Activation | None, name: str) -> float:
    """Returns the factor on an error of the signal, or on the gradient, 1 where it is not known."""
    if activation is None:
        return 1.0
    try:
        return float(getattr(depth_factors(activation.moments), name))
    except KerasHeError:
        return 1.0
