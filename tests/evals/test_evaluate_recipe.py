"""The entry point, on shards and an exported model."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meap.config import StreamConfig, TrainingConfig, load_config


@pytest.fixture(scope="module")
def main(project_root):
    spec = importlib.util.spec_from_file_location("evaluate_recipe", project_root / "recipes" / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def config(tmp_path, monkeypatch, llama, tokenizer, write_shards):
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "mds", seq_len=16)
    # This tokenizer spells almost byte by byte: the prompts need more positions than the model was made with.
    llama.save_pretrained(tmp_path / "hf")
    stored = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(stored | {"max_position_embeddings": 2048}))
    tokenizer.save(tmp_path / "hf")
    return load_config(
        TrainingConfig,
        None,
        [
            *("run.name=small", "data.remote=mds", "data.seq_len=16", "eval.model=hf", "eval.perplexity_rows=20"),
            *("eval.num_examples=6", "eval.num_sentences=1", "eval.batch_size=4"),
        ],
    )


def test_both_tasks_run_on_an_exported_model(main, config, capsys):
    main(config)
    results = json.loads(Path("runs/small/eval/results.json").read_text())
    assert results["tasks"]["perplexity"]["n"] == 20
    assert results["tasks"]["perplexity"]["num_tokens"] == 20 * 16
    assert results["tasks"]["key_retrieval"]["n"] == 6
    assert results["skipped"] == {}
    assert results["export"] is None
    printed = capsys.readouterr().out
    assert "held-out loss, nats per token" in printed
    assert "key retrieval, ranking (chance 0.25)" in printed


def test_held_out_rows_of_all_streams_are_scored(main, config, write_shards):
    streams = {"a": StreamConfig(str(write_shards(Path("a"), seq_len=16, validation_rows=12, seed=1)))}
    streams["b"] = StreamConfig(str(write_shards(Path("b"), seq_len=16, validation_rows=4, seed=2)))
    streams["c"] = StreamConfig(str(write_shards(Path("c"), seq_len=16, validation_rows=0, seed=3)))
    data = dataclasses.replace(config.data, streams=streams)
    settings = dataclasses.replace(config.eval, perplexity_rows=0)
    main(dataclasses.replace(config, data=data, eval=settings))
    results = json.loads(Path("runs/small/eval/results.json").read_text())
    assert results["tasks"]["perplexity"]["n"] == 16
    assert results["data"] == "a: a, b: b"


def test_rows_of_another_tokenizer_are_not_scored(main, config, capsys, tmp_path):
    definition = json.loads((tmp_path / "hf" / "tokenizer.json").read_text())
    definition["pre_tokenizer"]["use_regex"] = False
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps(definition))
    main(config)
    results = json.loads(Path("runs/small/eval/results.json").read_text())
    assert set(results["tasks"]) == {"key_retrieval"}
    assert "the model's tokenizer is not the one mds was made with" in results["skipped"]["perplexity"]
    assert "skipped     perplexity: " in capsys.readouterr().out


def test_help_is_quick(project_root, quiet_environment):
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, project_root / "recipes" / "evaluate.py", "--help"],
        env=quiet_environment | {"PYTHONPATH": str(project_root)},
        capture_output=True,
        text=True,
        check=True,
    )
    # Measured at 0.3 s; more is left for machines that are busy, and heavy imports alone take longer.
    assert time.perf_counter() - started < 3
    assert "eval.num_facts" in done.stdout
