"""The report of `audit`: what was measured of every kernel, and what is wrong with the model."""

import math
from dataclasses import dataclass

from keras_he.reports.data import Finding
from keras_he.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class AuditReport(Report):
    """What `audit` measured: a row for each variable, findings, and warnings; `print` it.

    Attributes:
        model: Name of the model.
        data: What it was measured on, such as `"64 drawn samples: standard normal values"`; empty
            if it was not measured.
        rows: One for each variable; those of kernels are in order of execution.
        findings: What is wrong with the model.
        warnings: What a person should know. Each is a text, and its `kind` tells a program.
        random_layers: Layers whose random numbers differ between backends, and with them what was
            measured after them.
        gradient_spread: Decades (factors of 10) between the largest and the smallest second moment
            of the gradient over depth; `None` if it was not measured.
        end_to_end: Second moment of the model's outputs divided by that of its inputs.
        depth_growth: The factor by which an error of the signal's second moment grows along the
            worst path without a normalization (`keras_he.depth_factors`).
        audited: `True`.
    """

    audited = True
    _job = "audit"

    findings: tuple[Finding, ...] = ()
    end_to_end: float | None = None
    depth_growth: float | None = None

    def check(
        self,
        *,
        spread: float = math.log10(1.5),
        inference_spread: float = 1.0,
        skipped: bool = False,
    ) -> None:
        """Raises if there are findings: for use in CI.

        Args:
            spread: Not used: `thresholds` of `audit` decide. It is here so that one line of code
                checks both kinds of report.
            inference_spread: Not used, likewise.
            skipped: Not used, likewise.

        Raises:
            ReportProblem: With all findings.
        """
        self._raise_on([str(finding) for finding in self.findings])

    def _findings(self) -> tuple[Finding, ...]:
        return self.findings

    def _head(self) -> str:
        return f"{self.model}: {'; '.join(self._counts())}."

    def _counts(self) -> list[str]:
        kernels, count = self.kernels, len(self.findings)
        checked = sum(row.figures is not None and row.left.kind != "not-seen" for row in kernels)
        found = f"{count} finding{'s' * (count > 1)}" if count else "no findings"
        if not (count or checked):
            found = "nothing could be checked"
        on = f" on {self.data}" if self.data and checked else ""
        return [found, f"{checked} of {len(kernels)} kernels checked{on}"]

    def _foot(self) -> list[str]:
        lines = []
        for place, finding in enumerate(self.findings, start=1):
            lines += [
                f"✗{place} {finding.verdict}: {finding.layer}",
                f"    {finding.evidence}.",
                f"    → {finding.remedy}",
            ]
        spreads = [f"signal E[y²] {self._signal()}"]
        if gradient := self._gradient():
            spreads.append(f"gradient E[∇²] {gradient}")
        lines.append(f"Spread over depth (a decade is a factor of 10): {', '.join(spreads)}.")
        if self.end_to_end is not None:
            lines.append(
                f"From inputs to outputs the second moment changes by a factor of "
                f"{self.end_to_end:.3g}."
            )
        if self.depth_growth is not None:
            lines.append(
                f"An error of the signal grows by a factor of at most {self.depth_growth:.3g} "
                "between normalizations."
            )
        return lines

    def _gradient(self) -> str:
        """Returns the spread of the gradient as text, nothing if it was not looked at."""
        figures = [row.figures for row in self.kernels if row.figures]
        seen = [one.gradient for one in figures if one.gradient is not None]
        zeros = seen.count(0.0)
        parts = [] if self.gradient_spread is None else [f"{self.gradient_spread:.2f} decades"]
        if zeros:
            parts.append(f"(E[∇²] is 0 at {zeros} of {len(seen)})")
        return " ".join(parts)

    def _facts(self) -> list[str]:
        facts = [*self._counts(), f"signal over depth {self._signal()}"]
        if gradient := self._gradient():
            facts.append(f"gradient over depth {gradient}")
        if self.end_to_end is not None:
            facts.append(f"outputs over inputs ×{self.end_to_end:.3g}")
        return facts
