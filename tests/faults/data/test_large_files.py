"""Files that are far too large are refused by their size, before they are read: each here would fill the memory."""

import json
import os
import shutil
from pathlib import Path

import pytest

from meap.cli import main
from meap.config import DataConfig, RecipeConfig, TokenizerConfig, load_config
from meap.data import open_shards, open_tokenizer
from meap.errors import ConfigError, DataError
from meap.evals.runner import read_results
from meap.report.evaluations import read_evaluation
from meap.report.runs import read_runs

HUGE = 1 << 40
REFUSED = r"it has 1,099,511,627,776 bytes, and 268,435,456 are the most that such a file may have"


def enlarge(path: Path) -> Path:
    """Without taking room on the disk."""
    os.truncate(path, HUGE)
    return path


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "mds")


@pytest.mark.parametrize("name", ["index.json", "manifest.json"])
def test_an_index_and_a_manifest_are_not_opened(copy, capsys, name):
    path, config = enlarge(copy / "train" / name), DataConfig(remote=str(copy), seq_len=16)
    with pytest.raises(DataError, match=rf"{path} is refused, since {REFUSED}: check what has written it, and restore"):
        open_shards(config, "train")
    for command in ("verify", "stats", "inspect"):
        assert main([command, f"remote={copy}"]) == 1
        assert REFUSED in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_tokenizer_and_counts_beside_the_data_are_not_opened(copy, capsys):
    shards = open_shards(DataConfig(remote=str(copy), seq_len=16), "train")
    enlarge(copy / "tokenizer" / "tokenizer.json")
    with pytest.raises(DataError, match=rf"tokenizer/tokenizer\.json is refused, since {REFUSED}"):
        open_tokenizer(TokenizerConfig(), shards)
    assert main(["verify", f"remote={copy}"]) == 1
    assert REFUSED in capsys.readouterr().out


def test_an_index_that_grows_after_its_data_were_opened_is_not_read(copy, open_only_copy):
    enlarge(copy / "train" / "index.json")
    with pytest.raises(DataError, match=rf"train/index\.json is refused, since {REFUSED}: check what has written it"):
        open_only_copy(copy)


def test_a_shard_with_more_bytes_than_its_index_says_is_not_read(
    copy, open_only_copy, open_data, tmp_path, epoch_of, release_caches
):
    rows = epoch_of(open_data(copy, tmp_path / "cache"))
    release_caches()
    for cached in (tmp_path / "cache" / "train").glob("*.mds"):
        enlarge(cached)
    again = epoch_of(open_data(copy, tmp_path / "cache"))
    assert again.keys() == rows.keys()
    assert all((again[row] == rows[row]).all() for row in rows)
    release_caches()
    shard, entry = min((copy / "train").glob("shard.*")), json.loads((copy / "train/index.json").read_text())
    size = (entry["shards"][0]["zip_data"] or entry["shards"][0]["raw_data"])["bytes"]
    enlarge(shard)
    with pytest.raises(DataError, match=rf"it has 1,099,511,627,776 bytes, not the {size:,} that the index says"):
        open_only_copy(copy)[0]


def test_a_configuration_and_a_line_of_metrics_without_end_are_not_read(tmp_path):
    (tmp_path / "config.yaml").write_text("run: {name: small}\n")
    enlarge(tmp_path / "config.yaml")
    with pytest.raises(
        ConfigError, match=r"config\.yaml is no configuration, since it has 1,099,511,627,776 bytes, and"
    ):
        load_config(RecipeConfig, tmp_path / "config.yaml", [])
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss/train/total": 2.0}\n' + "[" * (1 << 26) + "\n")
    run = read_runs([tmp_path])[0]
    assert run.last_step == 1
    assert any("lines of metrics.jsonl were broken and left out" in note for note in run.notes)
    assert any("config.yaml is no configuration" in note for note in run.notes)


def test_results_and_records_of_others_are_left_out(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    enlarge(tmp_path / "results.json")
    assert read_evaluation(tmp_path / "results.json") is None
    with pytest.raises(DataError, match=rf"results\.json is refused, since {REFUSED}: evaluate again, or check what"):
        read_results(tmp_path)
