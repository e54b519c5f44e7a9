"""Which names are folders that are not there, and what was probably meant."""

from pathlib import Path

import pytest

from meap.places.near import describe_missing, is_missing, nearest


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("openai/gpt", False),
        ("openai/large", False),  # though another model of the account was downloaded to where hub names lead
        ("gpt2", False),
        ("runs/tiny", False),
        ("runs/tinny", True),
        ("runs/tiny/hf", True),
        ("./tiny", True),
        ("~/there-is-none", True),
        ("~nobody-here/data", True),  # has no home
        ("/there/is/none", True),
        ("an/account/model", True),
    ],
)
def test_a_name_on_the_hub_is_no_folder_that_is_missing(tmp_path, monkeypatch, name, missing):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "openai/small").mkdir(parents=True)
    assert is_missing(name) == missing


def test_where_there_are_no_runs_yet_a_run_is_still_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_missing("runs/tiny")
    assert describe_missing(Path("runs/tiny"), remedy="train it") == "is not there: train it"


def test_the_nearest_names_are_told(tmp_path):
    (tmp_path / "tiny").mkdir()
    told = describe_missing(tmp_path / "tinny", remedy="train it")
    assert told == f"is not there: did you mean {tmp_path}/tiny? Or train it"
    assert describe_missing(tmp_path / "another", remedy="train it") == "is not there: train it"
    assert nearest(tmp_path / "tiny") == ""
