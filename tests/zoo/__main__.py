"""Prints a table of all models: `python tests/zoo [part of a name …]`.

For each model: layers with kernels; decades between the largest and the smallest mean square of
what they make, as built, in training and in inference mode. Then, after `keras_he.initialize`, the
same over the targets of the report, without biases, of the kernels that were set; of those that the
report has figures of; what the report says; by how many decades the two accounts differ about a
kernel at most; seconds; and the path of that kernel, if it is more than 0.1.
"""

import sys
import time
import traceback

import compare
import outside
import registration
import zoo

import keras_he

HEAD = (
    f"{'model':32} {'kernels':>7} {'built':>6} {'infer':>6} | {'train':>6} {'infer':>6} "
    f"{'known':>6} {'report':>6} {'off':>6}  {'s':>4}"
)


def line(name):
    """Returns the line of a model; an error is named in it."""
    try:
        return f"{name:32} {figures(name)}"
    except Exception as error:
        if "--trace" in sys.argv:
            traceback.print_exc()
        return f"{name:32} {type(error).__name__}: {' '.join(str(error).split())[:150]}"


def figures(name):
    """Returns the figures of a model."""
    start = time.perf_counter()
    model, batch = zoo.build(name)
    built = [outside.measure(model, batch, training) for training in (True, False)]
    before = [outside.decades(values[0] for values in one.values()) for one in built]
    report = keras_he.initialize(model, batch, seed=0)
    after = [compare.pairs(model, batch, report, training) for training in (True, False)]
    worst = compare.worst(after[0])
    spreads = [
        *(compare.spread(one) for one in after),
        compare.spread(after[0], only_reported=True),
        report.forward_spread,
        worst.off,
    ]
    text = " ".join(f"{one:6.2f}" for one in spreads)
    return (
        f"{len(built[0]):7} {before[0]:6.2f} {before[1]:6.2f} | {text} "
        f"{time.perf_counter() - start:5.1f}  {worst.path if worst.off > 0.1 else ''}"
    )


def main(parts):
    """Prints the lines of the models whose names contain one of the parts."""
    registration.register()
    print(HEAD)
    for name in zoo.MODELS:
        if not parts or any(part in name for part in parts):
            print(line(name), flush=True)


if __name__ == "__main__":
    main([one for one in sys.argv[1:] if not one.startswith("--")])
