"""What is trained: a grid of learning rates for each initializer, then five seeds with the best."""

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import runs, table
from .tasks import TASKS

TUNING_SEEDS = (100, 101)  # none of those that are compared


class Results:
    """The runs of a file, to which each new run is added at once.

    Args:
        path: Where the file is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = (
            json.loads(path.read_text()) if path.exists() else {"models": {}, "runs": []}
        )

    def find(self, **key: Any) -> dict[str, Any] | None:
        """Returns the run of this model, initializer, seed, learning rate and number of steps."""
        return next((run for run in self.known["runs"] if key.items() <= run.items()), None)

    def add(self, run: dict[str, Any]) -> None:
        """Writes one more run."""
        self.known["runs"].append(run)
        self.write()

    def write(self) -> None:
        """Replaces the file, whole or not at all."""
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.known, indent=1))
        os.replace(beside, self.path)


class Experiment:
    """Trains one model with each initializer; runs that the results have are skipped.

    Args:
        name: The model, of `TASKS`.
        results: Where the runs go.
        steps: Of each run.
    """

    def __init__(self, name: str, results: Results, steps: int) -> None:
        self.name, self.results, self.steps = name, results, steps
        self.task = TASKS[name]
        self._trainer: runs.Trainer | None = None
        self._starts: dict[tuple[str, int], runs.Start] = {}

    def compare(self, seeds: Iterable[int]) -> None:
        """Runs what the comparison of the initializers needs."""
        for initializer in self.task.weights:
            tried = [
                self.run(initializer, seed, rate, "tuning")
                for seed in TUNING_SEEDS
                for rate in self.task.learning_rates
            ]
            rate = table.best_rate(tried)
            for seed in seeds:
                self.run(initializer, seed, rate, "comparison")
            self._starts.clear()

    def run(self, initializer: str, seed: int, rate: float, part: str) -> dict[str, Any]:
        """Returns a run, which the results have from then on."""
        key = {
            "model": self.name,
            "initializer": initializer,
            "seed": seed,
            "learning_rate": rate,
            "steps": self.steps,
        }
        found = self.results.find(**key)
        if found is None:
            began = time.perf_counter()
            begin = self._start(initializer, seed)
            measured = self._training().run(begin, seed, rate, self.steps)
            found = {**key, "part": part, "spread": begin.spread, **measured}
            self.results.add(found)
            print(
                f"{self.name:12} {initializer:24} seed {seed:3} rate {rate:7.2g}: training "
                f"{found['training']:8.4f}, validation {found['validation']:8.4f}, "
                f"{time.perf_counter() - began:5.1f} s",
                file=sys.stderr,
                flush=True,
            )
        return found

    def _start(self, initializer: str, seed: int) -> runs.Start:
        key = initializer, seed
        if key not in self._starts:
            self._starts[key] = runs.start(self.task, initializer, seed)
        return self._starts[key]

    def _training(self) -> runs.Trainer:
        if self._trainer is None:
            self._trainer = runs.Trainer(self.task)
            self.results.known["models"][self.name] = {
                "parameters": self._trainer.parameters,
                "learning_rates": self.task.learning_rates,
                "batch": self.task.batch,
            }
        return self._trainer
