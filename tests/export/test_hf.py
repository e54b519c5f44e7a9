"""The exported folder: what it holds, that it was verified, that it needs nothing of this project."""

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from meap.config import RecipeConfig, TokenizerConfig, load_config
from meap.errors import CheckpointError, ConfigError
from meap.export.hf import ExportSource, export_model, require_replaceable
from meap.tokenizer import load_tokenizer
from meap.usage import Usage, read_export_record

SOURCE = ExportSource(run="small", checkpoint="ba7.pt", step=7, tokens=700, masking_ratio=0.15)
USAGE = Usage(begins_with_bos=True)

GENERATE = """
import importlib.abc, sys

class NoMeap(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("meap", "composer", "streaming"):
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, NoMeap())
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer("The harbour", return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
assert ids[0] == tokenizer.bos_token_id and tokenizer.mask_token_id not in ids
assert not [name for name in sys.modules if name.split(".")[0] == "meap"]
print(tokenizer.decode(ids))
"""


@pytest.fixture
def exported(model, tokenizer, tmp_path):
    export_model(model, tokenizer, tmp_path / "hf", SOURCE, usage=USAGE)
    return tmp_path / "hf"


def test_the_folder_holds_what_loading_needs_and_nothing_else_is_left(exported):
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "meap_export.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in exported.parent.iterdir()] == ["hf"]
    assert (exported / "model.safetensors").stat().st_mode == (exported / "config.json").stat().st_mode


def test_the_configuration_is_for_inference_and_names_nothing_of_ours(exported, tokenizer):
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["use_cache"] is True
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert (config["bos_token_id"], config["eos_token_id"]) == (tokenizer.bos_id, tokenizer.eos_id)
    assert config["vocab_size"] == 320
    assert "meap" not in (exported / "config.json").read_text()
    generation = json.loads((exported / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == [tokenizer.mask_id]


def test_the_model_in_memory_is_left_as_it_was(model, exported):
    assert model.config.use_cache is False
    assert model.config._attn_implementation == "meap_sdpa"
    assert model.training


def test_weights_come_back_exactly(model, exported):
    loaded = AutoModelForCausalLM.from_pretrained(exported)
    assert loaded.dtype == torch.float32
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_the_tokenizer_comes_with_its_mask_token(exported, tokenizer):
    assert load_tokenizer(TokenizerConfig(name=str(exported))).fingerprint == tokenizer.fingerprint
    theirs = AutoTokenizer.from_pretrained(exported)
    assert theirs("The boats")["input_ids"] == [tokenizer.bos_id, *tokenizer.encode("The boats")]
    assert theirs.mask_token_id == tokenizer.mask_id
    text = "The harbour lay quiet."
    assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    assert set(theirs(text)) == {"input_ids", "attention_mask"}


def test_the_record_says_where_it_came_from(exported, tokenizer):
    record = read_export_record(exported)
    assert record["source"] == {
        "run": "small",
        "checkpoint": "ba7.pt",
        "step": 7,
        "tokens": 700,
        "masking_ratio": 0.15,
        "replacement": "mask",
        "reversed_ratio": 0.0,
        "base": None,
    }
    assert record["tokenizer_fingerprint"] == tokenizer.fingerprint
    assert record["parameters"] == 320 * 32 * 2 + 2 * (32 * 32 * 3 + 32 * 48 * 3 + 32 * 2) + 32
    assert 0 <= record["max_abs_diff"] < 1e-5
    assert set(record["versions"]) == {"meap", "torch", "transformers"}


@pytest.mark.parametrize(
    ("trained", "method"),
    [
        ({"masking_ratio": 0.15}, "15% of the input tokens masked"),
        ({"masking_ratio": 0.05, "replacement": "random"}, "5% of the input tokens replaced (`random`)"),
        ({"masking_ratio": 0.0, "reversed_ratio": 0.5}, "(masking ratio 0), 50% of the rows read right to left"),
        ({"masking_ratio": 0.0}, "plain next-token"),
    ],
)
def test_the_card_tells_the_method(model, tokenizer, tmp_path, trained, method):
    source = ExportSource(run="small", checkpoint="ba7.pt", step=None, tokens=None, **trained)
    export_model(model, tokenizer, tmp_path / "hf", source, usage=USAGE)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert method in card
    assert "| trained for | not recorded |" in card


@pytest.mark.parametrize("bos", [True, False])
def test_the_card_of_a_model_of_text_continues_text_from_where_documents_begin(
    model, tokenizer, tmp_path, follow_card, bos, capsys
):
    """Whatever template its tokenizer came with, which it never saw."""
    named = dataclasses.replace(tokenizer, source_config=tokenizer.source_config | {"chat_template": "{{ x }}"})
    usage = Usage(begins_with_bos=bos, chat_template="{{ x }}")
    export_model(model, named if bos else named.without_bos(), tmp_path / "hf", SOURCE, usage=usage)
    done = follow_card(tmp_path / "hf")
    for ids, mask, text in zip(*done["inputs"].values(), done["texts"], strict=True):
        assert ids[mask == 1].tolist() == [tokenizer.bos_id] * bos + tokenizer.encode(text)
    assert len(done["output"]) == 2
    assert capsys.readouterr().out
    card = (tmp_path / "hf/README.md").read_text()
    assert "A text ends with `</s>`. `[MASK]` fills up a batch, on the left." in card
    assert ("begins with `<s>`, which the tokenizer writes" in card) == bos


@pytest.mark.slow
def test_generation_needs_nothing_of_this_project(exported, quiet_environment):
    environment = {key: value for key, value in quiet_environment.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", GENERATE, str(exported)],
        cwd=exported.parent,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("<s>The harbour")


# --- atomic, and careful with what is there ---


def test_a_model_that_computes_something_else_is_not_exported(model, tokenizer, exported):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    model.lm_head.register_forward_hook(lambda module, arguments, logits: logits + 1e-3)
    with pytest.raises(CheckpointError, match=r"differs from the trained one by 1.00e-03 in a logit, 1e-05 is allowed"):
        export_model(model, tokenizer, exported, SOURCE, usage=USAGE)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert [path.name for path in exported.parent.iterdir()] == ["hf"]


def test_a_model_that_computes_nothing_finite_is_not_exported(model, tokenizer, tmp_path):
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(CheckpointError, match="differs from the trained one by nan"):
        export_model(model, tokenizer, tmp_path / "hf", SOURCE, usage=USAGE)
    assert list(tmp_path.iterdir()) == []


def test_an_older_export_of_the_run_is_replaced(model, tokenizer, exported):
    (exported / "stray.txt").touch()
    torch.nn.init.normal_(model.lm_head.weight)
    export_model(model, tokenizer, require_replaceable(str(exported), "small"), SOURCE, usage=USAGE)
    assert not (exported / "stray.txt").exists()
    assert torch.equal(AutoModelForCausalLM.from_pretrained(exported).lm_head.weight, model.lm_head.weight)


def test_what_an_interrupted_export_left_is_replaced(model, tokenizer, tmp_path):
    (tmp_path / ".hf.partial").mkdir()
    (tmp_path / ".hf.partial" / "stray.txt").touch()
    export_model(model, tokenizer, tmp_path / "hf", SOURCE, usage=USAGE)
    assert not (tmp_path / "hf" / "stray.txt").exists()


def test_an_older_export_survives_a_failed_move(model, tokenizer, exported, monkeypatch):
    rename = Path.rename

    def refuse(self, target):
        if self.name == ".hf.partial":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        export_model(model, tokenizer, exported, SOURCE, usage=USAGE)
    assert read_export_record(exported) is not None


def test_what_came_while_the_model_was_verified_is_not_replaced(model, tokenizer, exported):
    mine = {path.name: path.read_bytes() for path in exported.iterdir()}
    with pytest.raises(CheckpointError, match="holds the export of run 'small', not of 'other'"):
        export_model(model, tokenizer, exported, dataclasses.replace(SOURCE, run="other"), usage=USAGE)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == mine
    assert list(exported.parent.glob(".*")) == []


def test_new_and_empty_folders_may_be_written(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        assert require_replaceable(str(tmp_path / name), "small") == tmp_path / name


def test_other_folders_are_refused(tmp_path, exported):
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(CheckpointError, match=r"holds files that are not an export \(no readable meap_export.json\)"):
        require_replaceable(str(other), "small")
    (other / "meap_export.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds files that are not an export"):
        require_replaceable(str(other), "small")
    with pytest.raises(CheckpointError, match="holds the export of run 'small', not of 'large'"):
        require_replaceable(str(exported), "large")
    with pytest.raises(ConfigError, match="is a file: choose another folder"):
        require_replaceable(str(other / "thesis.tex"), "small")
    with pytest.raises(ConfigError, match="is a URL: export to a local folder"):
        require_replaceable("s3://bucket/hf", "small")


def test_a_folder_that_cannot_be_renamed_is_refused_before_the_work(tmp_path, monkeypatch):
    """It was found when all was written, with a traceback."""
    mounted = Path("/dev/shm")
    with pytest.raises(ConfigError, match="cannot be replaced as a whole.*choose a folder in it, such as /dev/shm/hf"):
        require_replaceable(str(mounted), "small")
    (tmp_path / "link").symlink_to(mounted)
    with pytest.raises(ConfigError, match="cannot be replaced as a whole"):
        require_replaceable(str(tmp_path / "link"), "small")
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ConfigError, match="cannot be replaced as a whole"):
        require_replaceable(str(tmp_path / "own"), "small")


# --- smaller: bf16, several files ---


def test_weights_in_bf16_are_the_nearest_and_loaded_as_such(model, tokenizer, tmp_path):
    trained = {name: weight.clone() for name, weight in model.state_dict().items()}
    record = export_model(model, tokenizer, tmp_path / "hf", SOURCE, usage=USAGE, dtype="bf16")
    assert 1e-4 < record.rounding < 0.05
    assert record.max_abs_diff < 1e-5
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert loaded.dtype == torch.bfloat16
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, trained[name].bfloat16())
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"
    assert "| weights | bf16, whose rounding changes logits by " in (tmp_path / "hf" / "README.md").read_text()


def test_rounding_that_changes_the_model_is_not_exported(model, tokenizer, tmp_path):
    # Every weight of a row is the same but for a part that bf16 cannot hold: rounded, all tokens are alike.
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-4).add_(1.0)
    with pytest.raises(
        CheckpointError, match=r"rounding the weights to bf16 changes logits by .* Set export.dtype=fp32"
    ):
        export_model(model, tokenizer, tmp_path / "hf", SOURCE, usage=USAGE, dtype="bf16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("dtype", "bytes_per_weight"), [("fp32", 4), ("bf16", 2)])
def test_files_are_no_larger_than_asked_for_and_hold_every_weight_once(
    model, tokenizer, tmp_path, dtype, bytes_per_weight
):
    folder = tmp_path / "hf"
    export_model(model, tokenizer, folder, SOURCE, usage=USAGE, dtype=dtype, max_shard_size="45KB")
    files = sorted(folder.glob("*.safetensors"))
    weights = [load_file(path) for path in files]
    for held in weights:
        assert sum(tensor.nbytes for tensor in held.values()) <= 45_000
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: path.name for path, held in zip(files, weights, strict=True) for name in held}
    assert index["weight_map"].keys() == model.state_dict().keys()
    assert index["metadata"]["total_size"] == bytes_per_weight * sum(each.numel() for each in model.parameters())
    assert len(files) > 1
    assert not (folder / "model.safetensors").exists()
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in loaded.state_dict().items())


def test_a_tied_head_is_written_once_into_whichever_file(model, tokenizer, tmp_path):
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = True
    tied = LlamaForCausalLM(config)
    export_model(tied, tokenizer, tmp_path / "hf", SOURCE, usage=USAGE, dtype="bf16", max_shard_size="45KB")
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert "lm_head.weight" not in index["weight_map"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


@pytest.mark.parametrize("override", ["dtype=fp16", "max_shard_size=5", "max_shard_size=0GB", "max_shard_size=5gb"])
def test_other_types_and_sizes_are_refused(override):
    name, value = override.split("=")
    with pytest.raises(ConfigError, match=f"export.{name}={value!r}|export.{name}={value}"):
        load_config(RecipeConfig, None, [f"export.{override}"])
