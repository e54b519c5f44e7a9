"""A config.json that states other sizes than its weights have: one error at once, which names them."""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from meap.cli import main
from meap.config import EvaluationConfig, ModelConfig
from meap.config.commands import GenerateConfig
from meap.errors import CheckpointError, MeapError
from meap.evals.hugging_face import load_model, load_weights
from meap.export.prompting import Prompting
from meap.generation import continue_prompt
from meap.train.attention import choose_attention
from meap.train.checkpoints.model_record import record_model
from meap.train.start import initial_model, recorded_model
from meap.usage import Usage

pytestmark = pytest.mark.timeout(180)

ATTENTION = choose_attention("auto", on_gpu=False, bf16=False)


@pytest.fixture(scope="module", params=["5GB", "20KB"])
def folder(request, tokenizer, tmp_path_factory) -> Path:
    """An exported model of two layers, in one file and in several."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=tokenizer.vocab_size, max_position_embeddings=64,
        bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id,
    )  # fmt: skip
    written = tmp_path_factory.mktemp("exported")
    LlamaForCausalLM(config).save_pretrained(written, max_shard_size=request.param)
    Prompting(tokenizer, Usage(begins_with_bos=True), with_mask=True, context=64).write(written)
    return written


@pytest.fixture
def lie(folder, tmp_path) -> Callable[..., Path]:
    """The same with a config.json that states something else."""

    def make(**stated) -> Path:
        copy = shutil.copytree(folder, tmp_path / "hf")
        described = json.loads((folder / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(described | stated))
        return copy

    return make


def begin(tokenizer, **section):
    return initial_model(ModelConfig(**section), tokenizer, attention=ATTENTION, context=16, seed=0)


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1,000,000,000, but 4,096 is the most that is allowed"),
        ({"hidden_size": 10**9}, "hidden_size=1,000,000,000, but 16,777,216 is the most that is allowed"),
        ({"vocab_size": 10**12}, "vocab_size=1,000,000,000,000, but 16,777,216 is the most that is allowed"),
        ({"text_config": {"n_layer": 5000}}, "text_config.n_layer=5,000, but 4,096 is the most"),
        ({"num_hidden_layers": 3}, r"num_hidden_layers=3, but \S+/model\.safetensors\S* holds weights of 2: give the"),
        ({"vocab_size": 10**6}, r"vocab_size=1,000,000, but \S+/model\.safetensors\S* holds [\d,]+ values in all"),
    ],
    ids=str,
)
def test_sizes_that_no_model_or_not_these_weights_have_are_refused(lie, tokenizer, capsys, stated, found):
    name = str(lie(**stated))
    expected = rf"{name}/config\.json states {found}"
    with pytest.raises(CheckpointError, match=rf"^model={name}: {expected}"):
        load_model(EvaluationConfig(model=name))
    with pytest.raises(CheckpointError, match=rf"^model\.base={name}: {expected}"):
        begin(tokenizer, base=name)
    assert main(["generate", f"model={name}", "prompt=The boats"]) == 1
    (told,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("meap generate: loading")]
    assert re.match(rf"error: model={name}: {expected}", told)


@pytest.mark.parametrize(("key", "value"), [("hidden_size", 64), ("intermediate_size", 25), ("vocab_size", 500)])
def test_other_shapes_are_named_by_the_size_that_is_wrong(lie, tokenizer, key, value):
    name = str(lie(**{key: value}))
    wrong = rf"its weights have other shapes than {name}/config\.json states \({key}={value}: no weight in {name}/model"
    for attempt in (lambda: load_model(EvaluationConfig(model=name)), lambda: begin(tokenizer, base=name)):
        with pytest.raises(MeapError, match=rf"={name}: {wrong}\S+ has a dimension of this size\): give the config"):
            attempt()


def test_fresh_weights_and_a_record_have_bounds_too(lie, tokenizer):
    folder = lie(num_hidden_layers=10**9)
    with pytest.raises(CheckpointError, match=r"^model\.config=\S+: \S+ states num_hidden_layers=1,000,000,000, but"):
        begin(tokenizer, config=str(folder / "config.json"))
    section = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = begin(tokenizer, **section, num_key_value_heads=2)
    record, _ = record_model(model, tokenizer, Usage(), before=None)
    hostile = dataclasses.replace(record, architecture=record.architecture | {"num_hidden_layers": 10**9})
    with pytest.raises(CheckpointError, match=r"^the checkpoint's record states num_hidden_layers=1,000,000,000, but"):
        recorded_model(hostile, attention=ATTENTION)


@pytest.mark.parametrize(
    ("file", "size", "said"),
    [
        ("config.json", 20_000_000, "describes no model, since it has 20,000,000 bytes, and 16,777,216 are the most"),
        ("config.json", 10 << 30, "is refused, since it has 10,737,418,240 bytes, and 268,435,456 are the most"),
        ("generation_config.json", 10 << 30, "is refused, since it has 10,737,418,240 bytes, and 268,435,456 are"),
        ("tokenizer.json", 10 << 30, "is refused, since it has 10,737,418,240 bytes, and 268,435,456 are the most"),
    ],
)
def test_settings_without_end_are_not_read(lie, tokenizer, file, size, said):
    folder = lie()
    os.truncate(folder / file, size)
    for attempt in (
        lambda: load_weights(str(folder)),
        lambda: begin(tokenizer, base=str(folder)),
        lambda: continue_prompt(GenerateConfig(model=str(folder), prompt="The boats")),
    ):
        with pytest.raises(CheckpointError, match=rf"{folder}/{file} {said}"):
            attempt()


def test_weights_that_are_missing_are_not_random(folder, tmp_path):
    """Scores of random weights would look like any others."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "hf")
    path = next(path for path in sorted(copy.glob("*.safetensors")) if any("norm" in name for name in load_file(path)))
    kept = {name: weight for name, weight in load_file(path).items() if "norm" not in name}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"\d weights of a 'llama' model are not in its files, such as model\."):
        load_model(EvaluationConfig(model=str(copy)))


def test_smaller_models_than_the_weights_and_fresh_ones_are_read(lie, tokenizer):
    name = str(lie(num_hidden_layers=1))
    assert load_model(EvaluationConfig(model=name)).describe()["parameters"] > 0
    (Path(name) / "model.safetensors").write_text("no weights")
    assert len(begin(tokenizer, config=name).layers) == 1
