"""The table of faults: rows are claimed by tests that passed, and docs/guarantees.md has every row."""

import pytest

from .fault_table import FAULTS, FaultResults, replace_table


@pytest.fixture
def shown() -> FaultResults:
    results = FaultResults()
    for number in FAULTS:
        results.add(f"test_{number}", "passed", [("fault", number), ("injected", 1200)])
    return results


def test_every_row_says_how_often_the_fault_was_injected(shown):
    shown.add("test_twice", "passed", [("fault", 3), ("fault", 4)])
    shown.add("test_unmarked", "failed", [])
    rows = shown.table().splitlines()[2:]
    once, twice = "1 test, 1,200 faults |", "2 tests, 1,201 faults |"
    assert [row.rsplit("| ", 1)[1] for row in rows] == [once] * 2 + [twice] * 2 + [once] * 10


def test_what_could_not_run_is_said(shown):
    shown.add("test_root_only", "skipped", [("fault", 2)])
    assert "1 test, 1 not run here, 1,200 faults |" in shown.table()


@pytest.mark.parametrize("outcome", ["failed", None])
def test_a_row_that_was_not_shown_is_no_row(outcome):
    results = FaultResults()
    for number in set(FAULTS) - {7}:
        results.add(f"test_{number}", "passed", [("fault", number)])
    if outcome:
        results.add("test_7", "passed", [("fault", 7)])
        results.add("test_7_too", outcome, [("fault", 7)])
    with pytest.raises(ValueError, match=r"faults \[7\] are not shown"):
        results.table()


def test_the_table_takes_the_place_of_the_one_before(shown, tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- faults: written by `make faults` -->\nold\n<!-- /faults -->\nafter\n")
    for _ in range(2):
        replace_table(path, shown.table())
        first, *_, last = path.read_text().splitlines()
        assert (first, last) == ("before", "after")
        assert path.read_text().count(FAULTS[1][0]) == 1
    assert "\nold\n" not in path.read_text()
