"""Compares losses after training: `docs/training.md` says how, and what was found.

    python -m pip install -e ".[jax,test]"                 # in a checkout of keras_he
    python -m benchmarks.training --out training.json      # all models, on one core
    python -m benchmarks.training --models cct,deit --seeds 5 --steps 200 --out training.json
    python -m benchmarks.training --table --out training.json

Each run is written to the file when it ends, and a run that the file has is not repeated.
"""

import argparse
import json
import os
from pathlib import Path

# Before the import of JAX: one core, so that runs take the same time beside other work.
ONE_CORE = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=lambda text: text.split(","), help="instead of all")
    parser.add_argument("--seeds", type=int, default=5, help="that are compared (2 to 10)")
    parser.add_argument("--steps", type=int, default=200, help="of each run")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file of the runs")
    parser.add_argument("--table", action="store_true", help="train nothing, print the tables")
    found = parser.parse_args(given)
    if not 2 <= found.seeds <= 10:
        parser.error(f"--seeds must be 2 to 10. Received: {found.seeds}")
    return found


def main() -> None:
    """Trains, or prints what was trained."""
    chosen = arguments()
    from . import table

    if not chosen.table:
        os.environ.update(ONE_CORE)
        from .experiment import Experiment, Results
        from .tasks import TASKS

        unknown = set(chosen.models or ()) - set(TASKS)
        if unknown:
            raise SystemExit(f"no model {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
        results = Results(chosen.out)
        for name in chosen.models or TASKS:
            Experiment(name, results, chosen.steps).compare(range(chosen.seeds))
    print(table.markdown(json.loads(chosen.out.read_text())))


if __name__ == "__main__":
    main()
