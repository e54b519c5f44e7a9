"""The entry point, from a checkpoint on disk to a folder that transformers loads."""

import dataclasses
import importlib.util
import os
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

from meap.config import ModelConfig, RecipeConfig, load_config, to_values

MODEL = ModelConfig(
    hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2
)


@pytest.fixture(scope="module")
def main(project_root):
    spec = importlib.util.spec_from_file_location("export_hf_recipe", project_root / "recipes" / "export_hf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def run(tmp_path, monkeypatch, tokenizer, publish):
    """A run's folder, with one checkpoint, and no data anywhere; returns the model whose weights it holds."""
    from meap.train.attention import choose_attention
    from meap.train.checkpoints.model_record import record_model
    from meap.train.model import build_model, decoder_config
    from meap.usage import Usage

    monkeypatch.chdir(tmp_path)
    config = load_config(RecipeConfig, None, ["run.name=small", "data.remote=mds", "data.seq_len=16"])
    config = dataclasses.replace(config, model=MODEL)
    architecture = decoder_config(config.model, vocab_size=tokenizer.vocab_size, seq_len=16)
    model = build_model(architecture, attention=choose_attention("sdpa", on_gpu=False, bf16=False), seed=3)
    record, shared = record_model(model, tokenizer, Usage(), before=None)
    folder = str(tmp_path / "runs" / "small" / "checkpoints")
    publish(folder, 7, model.state_dict(), config=to_values(config), model=record, shared=shared)
    return model


@pytest.mark.slow
def test_the_newest_checkpoint_is_exported_by_the_stored_configuration(main, run, capsys):
    # The yaml says 24 layers: what counts is what was trained.
    main(load_config(RecipeConfig, None, ["run.name=small"]))
    printed = capsys.readouterr().out
    assert "checkpoint  runs/small/checkpoints/ba7.pt" in printed
    assert "verified    largest difference of a logit" in printed
    loaded = AutoModelForCausalLM.from_pretrained("runs/small/hf")
    assert loaded.config.num_hidden_layers == 2
    assert loaded.config.max_position_embeddings == 16
    assert (loaded.lm_head.weight == run.model.lm_head.weight).all()


@pytest.mark.slow
def test_a_request_to_stop_is_told_and_leaves_nothing(run, tmp_path, project_root, quiet_environment):
    """Composer, which takes the signals when it is imported, ended the export without a word, by another status."""
    command = subprocess.Popen(
        [sys.executable, project_root / "recipes" / "export_hf.py", "run.name=small"],
        cwd=tmp_path,
        env=quiet_environment | {"PYTHONPATH": str(project_root), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    assert command.stdout.readline().startswith("checkpoint")
    command.terminate()
    _, told = command.communicate(timeout=240)
    assert (command.returncode, told.splitlines()[-1]) == (
        75,
        "stopped by SIGTERM: run the same command again to resume",
    )
    assert [path.name for path in (tmp_path / "runs" / "small").iterdir()] == ["checkpoints"]


@pytest.mark.slow
def test_a_checkpoint_of_the_trainer_is_exported(tmp_path, project_root, write_shards, warm_python, quiet_environment):
    write_shards(tmp_path / "mds", seq_len=16)
    arguments = [
        *(f"model.{item.name}={getattr(MODEL, item.name)}" for item in dataclasses.fields(MODEL) if item.type == "int"),
        *("run.name=small", "data.remote=mds", "data.seq_len=16", "data.num_canonical_nodes=8", "data.num_workers=0"),
        *("train.max_duration=3ba", "train.global_batch_size=8", "train.eval_batches=0", "train.device=cpu"),
    ]
    environment = quiet_environment | {"PYTHONPATH": str(project_root), "PATH": os.environ["PATH"]}
    for recipe in ("meap_1b.py", "export_hf.py"):
        done = subprocess.run(
            [warm_python, project_root / "recipes" / recipe, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "step 3" in done.stdout
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / "small" / "hf").config.num_hidden_layers == 2
