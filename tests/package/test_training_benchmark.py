"""The statistics and tables of `benchmarks/training`, without training anything."""

import json
import math
import statistics
import sys
from pathlib import Path

import pytest
import scipy.stats

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
if not (Path(__file__).parents[2] / "benchmarks").exists():
    pytest.skip("the benchmarks are not beside these tests", allow_module_level=True)

from training import __main__ as command
from training import table

DEFAULT = [0.50, 0.40, 0.60, 0.55, 0.45]
LOWER = [0.40, 0.32, 0.49, 0.46, 0.35]
NOISY = [0.60, 0.30, 0.70, 0.45, 0.46]


def run(initializer, seed, loss, rate=0.003, part="comparison"):
    return {
        "model": "deit",
        "initializer": initializer,
        "seed": seed,
        "learning_rate": rate,
        "part": part,
        "training": loss,
        "validation": loss + 1,
        "spread": 0.5,
    }


def known(**losses):
    return {
        "models": {"deit": {"learning_rates": [0.001, 0.003, 0.009]}},
        "runs": [
            run(name.replace("__", "="), seed, loss)
            for name, values in losses.items()
            for seed, loss in enumerate(values)
        ],
    }


def cells(markdown, number=0):
    """Returns the cells of the rows of a table."""
    rows = markdown.split("\n\n")[number].splitlines()[2:]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


@pytest.mark.parametrize("losses", [LOWER, NOISY], ids=["lower", "noisy"])
def test_t_is_that_of_the_paired_test_of_scipy(losses):
    expected = scipy.stats.ttest_rel(losses, DEFAULT).statistic
    assert table.paired_t(losses, DEFAULT) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("freedom", table.CRITICAL)
def test_the_threshold_is_exceeded_by_chance_in_5_of_100_cases(freedom):
    assert table.CRITICAL[freedom] == pytest.approx(scipy.stats.t.ppf(0.975, freedom), abs=6e-4)


def test_equal_losses_do_not_differ_and_a_constant_difference_is_certain():
    assert table.paired_t(DEFAULT, DEFAULT) == 0
    assert table.paired_t([1.0, 2.0], [2.0, 3.0]) == -math.inf


@pytest.mark.parametrize(
    ("t", "said"),
    [(-2.9, "better"), (2.9, "worse"), (2.7, "same"), (-2.7, "same"), (math.nan, "diverged")],
)
def test_the_verdict_of_five_pairs(t, said):
    assert table.verdict(t, 5) == said


def test_the_best_rate_has_the_lowest_mean_and_never_diverged():
    losses = {0.001: (0.5, 0.5), 0.003: (0.1, 0.7), 0.009: (0.1, math.nan)}
    tried = [run("default", 0, loss, rate) for rate, pair in losses.items() for loss in pair]
    assert table.best_rate(tried) == 0.003


def test_a_row_has_means_deviations_and_the_paired_comparison():
    default, lower = cells(table.markdown(known(default=DEFAULT, keras_he=LOWER)))
    mean, deviation = statistics.fmean(LOWER), statistics.stdev(LOWER)
    assert lower[:5] == ["deit", "keras_he", "0.003", "0.50", f"{mean:.4f} ± {deviation:.4f}"]
    t = scipy.stats.ttest_rel(LOWER, DEFAULT).statistic
    assert lower[6:] == [f"{t:+.1f}", f"{t:+.1f}", "better"]
    assert default[6:] == ["", "", ""]


def test_the_order_of_the_runs_in_the_file_does_not_matter():
    runs = known(default=DEFAULT, keras_he=LOWER)
    shuffled = {**runs, "runs": runs["runs"][::-1]}
    assert table.markdown(shuffled) == table.markdown(runs)


def test_scaling_by_depth_is_compared_with_no_scaling():
    found = known(default=DEFAULT, keras_he=DEFAULT, residual__None=LOWER)
    (row,) = cells(table.markdown(found), 1)
    assert (row[0], row[-1]) == ("deit", "worse")


def test_a_rate_at_the_end_of_the_grid_is_marked_and_a_diverged_run_is_told():
    found = known(default=DEFAULT, keras_he=[0.1, math.nan, 0.1, 0.1, 0.1])
    for one in found["runs"]:
        one["learning_rate"] = 0.009
    default, diverged = cells(table.markdown(found))
    assert default[2] == "0.009 ↑"
    assert diverged[-1] == diverged[4] == "diverged"


def test_runs_of_the_tuning_are_not_compared():
    found = known(default=DEFAULT, keras_he=LOWER)
    found["runs"] += [run("keras_he", 100, 9.0, part="tuning")]
    assert table.markdown(found) == table.markdown(known(default=DEFAULT, keras_he=LOWER))


def test_the_command_prints_the_table_of_a_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "training.json"
    path.write_text(json.dumps(known(default=DEFAULT, keras_he=LOWER)))
    monkeypatch.setattr(sys, "argv", ["training", "--table", "--out", str(path)])
    command.main()
    assert "better" in capsys.readouterr().out


def test_too_few_seeds_are_refused(capsys):
    with pytest.raises(SystemExit):
        command.arguments(["--seeds", "1", "--out", "x"])
    assert "--seeds must be 2 to 10. Received: 1" in capsys.readouterr().err
