"""The benchmark's command and tables, without a measurement: times are not asserted anywhere."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
if not (Path(__file__).parents[2] / "benchmarks").exists():
    pytest.skip("the benchmarks are not beside these tests", allow_module_level=True)

import run
import tables


def row(table, what, seconds, **of):
    return {"table": table, "backend": "tensorflow", "what": what, "seconds": seconds, **of}


LARGE = {"size": 64 * 10**6, "dtype": "float32"}
ROWS = [
    row("draw", "KaimingNormal", [0.5, 0.32, 0.1], **LARGE),
    row("draw", "keras HeNormal", [0.96, 0.9, 3.0], **LARGE),
    *(
        row("threads", "KaimingNormal", seconds, threads=n, size=10**6, second_core=[2, 1, 1.9, 2])
        for n, seconds in ((1, [4.0, 4.0, 4.0, 4.0]), (2, [2.0, 9.0, 2.0, 2.0]))
    ),
]


def test_medians_make_the_ratios():
    promised, *others = tables.tables(ROWS)
    assert promised.lines[0][1:] == ["≥ 2.5", "3.00", "yes"]
    assert others[0].lines == [["KaimingNormal", "200"], ["keras HeNormal", "67"]]


def test_threads_are_judged_only_where_a_second_core_was_idle():
    single, double = ROWS[-2:]
    assert tables.idle_gain(single, double) == 2.0
    assert tables.idle_gain(single, {**double, "second_core": [1, 1, 1.9, 2]}) is None
    promised = next(iter(tables.tables(ROWS)))
    assert promised.lines[-1][1:] == ["≥ 1.6", "2.00", "yes"]
    busy = [{**one, "second_core": [1, 1, 1, 1]} for one in ROWS]
    promised, *_, last = tables.tables(busy)
    assert promised.lines[-1][1:] == ["≥ 1.6", "", "it was busy"]
    assert last.lines == [["KaimingNormal", "0", "0", "1.00", "0 of 4", ""]]


@pytest.mark.parametrize("part", run.PARTS)
def test_every_part_is_measured_by_a_function(part):
    module, function, backends = run.PARTS[part]
    source = (Path(run.__file__).parent / f"{module}.py").read_text()
    assert f"def {function}(quick: bool)" in source
    assert set(backends) <= set(run.ALL)


def test_unknown_parts_are_named(capsys):
    with pytest.raises(SystemExit):
        run.arguments(["drawz"])
    assert "no part drawz; there are stages, draws" in capsys.readouterr().err


def test_tables_go_where_the_document_has_them(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text(f"before\n{run.BEGIN}\nold\n{run.END}\nafter\n")
    assert run.inserted(path, "new") == f"before\n{run.BEGIN}\n\nnew\n{run.END}\nafter\n"
    assert run.inserted(tmp_path / "other.md", "new") == "new"
