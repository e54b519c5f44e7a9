"""Adapters beside a frozen base: real runs of fine-tuning, resumed and exported, read back by plain libraries."""

import json
import runpy
import shutil
import subprocess
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from meap.checkpoints.reading import load_weights, read_checkpoint, read_record
from meap.config import LoraConfig, RecipeConfig, load_config, save_config
from meap.errors import ConfigError, MismatchError
from meap.train.lora import add_adapters, freeze, merge_adapters
from meap.train.model import NextTokenModel
from meap.train.start import initial_model, recorded_model

from .conftest import losses

ROOT = Path(__file__).resolve().parents[2]
WIDE = 256
LORA = ("lora.rank=4", "optimizer.lr=0.02")
FLAT = ("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999")
SMALL = (
    f"data.seq_len={WIDE}",
    "data.num_canonical_nodes=2",
    "data.num_workers=0",
    "masking.ratio=0.25",
    "train.max_duration=4ba",
    "train.global_batch_size=4",
    "train.microbatch_size=2",
    "train.log_interval=1ba",
    "train.eval_batches=0",
    "train.device=cpu",
    "checkpoint.interval=2ba",
    "checkpoint.keep=-1",
)


@pytest.fixture(scope="module")
def remote(write_conversations, tmp_path_factory) -> Path:
    return write_conversations(tmp_path_factory.mktemp("sft"), seq_len=WIDE)


@pytest.fixture
def base(make_base, tokenizer) -> Path:
    return make_base("llama", vocab_rows=tokenizer.plain_vocab_size, max_position_embeddings=512)


@pytest.fixture
def settings(remote, base):
    def make(run_dir: Path, *overrides: str) -> list[str]:
        where = (f"data.remote={remote}", f"run.dir={run_dir}", f"run.name={run_dir.name}", f"model.base={base}")
        return [*SMALL, *LORA, *FLAT, *where, *overrides]

    return make


@pytest.fixture
def tune(settings):
    recipe = runpy.run_path(str(ROOT / "recipes/meap_sft.py"))

    def run(run_dir: Path, *overrides: str) -> list[float]:
        config = load_config(RecipeConfig, None, settings(run_dir, *overrides))
        recipe["check"](config)
        recipe["main"](config)
        return losses(run_dir)

    return run


def export(settings: list[str]) -> None:
    runpy.run_path(str(ROOT / "recipes/export_hf.py"))["main"](load_config(RecipeConfig, None, settings))


def state_of(run_dir: Path, step: int) -> dict:
    return torch.load(run_dir / f"checkpoints/ba{step}.pt", weights_only=False)["state"]


@pytest.mark.slow
def test_a_resumed_run_is_the_run_bit_for_bit_and_its_checkpoints_hold_adapters_alone(tune, tmp_path, base, tokenizer):
    whole = tune(tmp_path / "whole", "lora.dropout=0.1")
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    for path in (tmp_path / "halves/checkpoints").glob("ba4*"):
        path.unlink()
    moved = base.rename(tmp_path / "moved")
    halves = tune(tmp_path / "halves", "lora.dropout=0.1", f"model.base={moved}")
    assert halves == whole
    assert whole[-1] < whole[0]
    one, other = (state_of(tmp_path / name, 4) for name in ("whole", "halves"))
    weights, again = one["model"], other["model"]
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())
    assert {name.split(".")[-3] if "lora" in name else name.split(".")[-1] for name in weights} == {
        "lora_A",
        "lora_B",
        "mask_row",
    }
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    moments = one["optimizers"]["AdamW"]["state"]
    assert set(moments) == set(weights)
    initial = AutoModelForCausalLM.from_pretrained(moved).get_input_embeddings().weight.mean(0)
    (row,) = (weight for name, weight in weights.items() if name.endswith("mask_row"))
    assert not torch.allclose(row[0], initial, atol=1e-3)  # it began there, and was trained
    assert (
        f"{sum(weight.numel() for weight in weights.values()):,} of adapters (rank 4) are trained"
        in (tmp_path / "whole/log.txt").read_text()
    )


@pytest.mark.slow
def test_another_base_is_refused(tune, tmp_path, base):
    tune(tmp_path / "run", "train.max_duration=1ba")
    other = tmp_path / "other"
    shutil.copytree(base, other)
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.lm_head.weight[5, 5] += 1e-3
    model.save_pretrained(other)
    with pytest.raises(MismatchError, match=rf"model.base={other} has other weights than the base that this run's ada"):
        tune(tmp_path / "run", f"model.base={other}", "train.max_duration=2ba")
    with pytest.raises(ConfigError, match=r"is a run of adapters, .*: export it .*recipes/export_hf.py merges them"):
        tune(tmp_path / "next", f"model.base={tmp_path / 'run'}")


@pytest.mark.slow
def test_rows_masks_and_steps_are_those_of_a_run_without_adapters(tune, tmp_path):
    def inputs(run_dir: Path, *overrides: str) -> list:
        seen = []

        def note(module, given):
            if isinstance(module, NextTokenModel) and "sample_id" in given[0]:  # not a trial before the start
                seen.append({name: each for name, each in given[0].items() if torch.is_tensor(each)})

        handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
        try:
            tune(run_dir, "train.max_duration=2ba", *overrides)
        finally:
            handle.remove()
        return seen

    adapted, whole = inputs(tmp_path / "adapted"), inputs(tmp_path / "whole", "lora.rank=0")
    assert len(adapted) == len(whole) == 4
    for one, other in zip(adapted, whole, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    starts = [losses(tmp_path / name)[0] for name in ("adapted", "whole")]
    assert starts[0] == pytest.approx(starts[1], abs=1e-6)  # adapters begin as nothing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft
@pytest.mark.parametrize("tied", [False, True])
def test_adapters_are_exported_merged_and_alone_with_the_logits_of_training(
    tune, settings, tmp_path, make_base, tokenizer, tied
):
    base = make_base("qwen3", vocab_rows=tokenizer.plain_vocab_size, tied=tied, max_position_embeddings=512)
    run_dir, where = tmp_path / "run", f"model.base={base}"
    tune(run_dir, where)
    trained = trained_model(run_dir, base, tokenizer)
    ids = torch.randint(tokenizer.plain_vocab_size, (2, 40), generator=torch.Generator().manual_seed(1))
    masked = ids.clone()
    masked[:, 3::5] = tokenizer.mask_id
    with torch.inference_mode():
        expected, expected_masked = trained.model(ids).logits, trained.model(masked).logits
        batch = {"input_ids": masked, "labels": ids}
        loss = trained(batch)["loss"]

    export(settings(run_dir, where, "data.remote=gone"))
    merged = AutoModelForCausalLM.from_pretrained(run_dir / "hf")
    known = slice(tokenizer.plain_vocab_size)
    with torch.inference_mode():
        assert torch.allclose(merged(ids).logits[..., known], expected[..., known], atol=1e-5)
        logits = merged(masked).logits
        assert torch.allclose(logits[..., known], expected_masked[..., known], atol=1e-5)
        # All logits, the mask token's too: the loss is over all of them.
        again = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
    assert float(again) == pytest.approx(float(loss), abs=1e-5)
    assert not any("lora" in name for name in merged.state_dict())

    export(settings(run_dir, where, "data.remote=gone", "export.lora=adapter"))
    assert {path.name for path in (run_dir / "hf").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    plain = AutoModelForCausalLM.from_pretrained(base)
    loaded = peft.PeftModel.from_pretrained(plain, str(run_dir / "hf")).eval()
    with torch.inference_mode():
        assert torch.allclose(loaded(ids).logits, expected[..., known], atol=1e-5)
    assert "LoRA adapters of" in (run_dir / "hf/README.md").read_text()


def trained_model(run_dir: Path, base: Path, tokenizer) -> NextTokenModel:
    """Put together by hand from the base and the newest checkpoint."""
    from meap.train.attention import choose_attention

    config = load_config(RecipeConfig, run_dir / "config.yaml")
    attention = choose_attention("auto", on_gpu=False, bf16=False)
    model = initial_model(config.model, tokenizer, attention=attention, context=1, seed=3, lora=config.lora)
    load_weights(model, read_checkpoint(run_dir / "checkpoints/ba4.pt"))
    return model.eval()


@pytest.mark.slow
def test_a_run_of_all_weights_has_no_adapters_to_export(tune, settings, tmp_path):
    tune(tmp_path / "run", "lora.rank=0", "train.max_duration=1ba")
    with pytest.raises(ConfigError, match=r"export.lora=adapter, but run 'run' trained all weights: use export.lora=m"):
        export(settings(tmp_path / "run", "lora.rank=0", "export.lora=adapter"))
    record = read_record(str(tmp_path / "run/checkpoints/ba1.pt"))
    assert record.model.base_fingerprint is None
    recorded_model(record.model, attention="sdpa")


@pytest.mark.slow
def test_sharded_ranks_train_the_adapters_of_one_process_and_resume_as_one(
    tune, settings, tmp_path, warm_python, quiet_environment
):
    words, kinds = [], {"grad_op": "full", "full": "sharded"}
    for sharding, kind in kinds.items():
        for stop in (2, 3):
            overrides = (f"train.max_duration={stop}ba", f"train.sharding={sharding}", f"checkpoint.state_dict={kind}")
            path = tmp_path / f"{sharding}-{stop}.yaml"
            given = settings(tmp_path / sharding, *overrides, "train.microbatch_size=1")
            save_config(load_config(RecipeConfig, None, given), path)
            words += [str(ROOT / "recipes/meap_sft.py"), str(path)]
    done = subprocess.run(
        [warm_python, str(ROOT / "tests/train/several_runs.py"), "2", *words],
        env=quiet_environment | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    whole = tune(tmp_path / "one", "train.microbatch_size=1")
    for sharding in kinds:
        assert losses(tmp_path / sharding) == pytest.approx(whole[:3], abs=2e-4)
    export(settings(tmp_path / "full"))
    assert json.loads((tmp_path / "full/hf/meap_export.json").read_text())["source"]["step"] == 3


@pytest.fixture
def tiny(make_base, tokenizer):
    def make(tied: bool = False) -> NextTokenModel:
        folder = make_base("llama", vocab_rows=320, tied=tied, max_position_embeddings=64)
        return NextTokenModel(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))

    return make


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("chunks", [1, 3])
def test_only_adapters_and_the_row_of_the_mask_get_gradients_and_the_same_in_chunks(tiny, tokenizer, tied, chunks):
    model = tiny(tied)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    add_adapters(model, LoraConfig(rank=2), mask_id=tokenizer.mask_id, seed=1)
    assert model.num_trained < model.num_parameters
    model.loss_chunks = chunks
    ids = torch.arange(20, 52)[None].clone()
    ids[0, ::4] = tokenizer.mask_id
    model({"input_ids": ids, "labels": ids + 1})["loss"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name or "mask_row" in name), name
        assert parameter.requires_grad == (parameter.grad is not None)
        if "lora_A" not in name and parameter.grad is not None:  # B is zero, so that A has no gradient yet
            assert float(parameter.grad.abs().sum()) > 0, name
    assert {name.rsplit(".", 1)[-1] for name in model.state_dict()} == {"weight", "mask_row"}
    merge_adapters(model)
    model.should_save_peft_only = False
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_the_same_seed_gives_the_same_adapters_also_where_the_base_takes_no_memory(tiny, tokenizer):
    one, other, third = tiny(), tiny(), tiny()
    for model, seed in ((one, 5), (other, 5), (third, 6)):
        add_adapters(model, LoraConfig(rank=2), mask_id=tokenizer.mask_id, seed=seed)
    stored, again, different = (model.state_dict() for model in (one, other, third))
    assert all(torch.equal(each, again[name]) for name, each in stored.items())
    assert any(not torch.equal(each, different[name]) for name, each in stored.items())
    shape = tiny().to("meta")
    add_adapters(shape, LoraConfig(rank=2), mask_id=tokenizer.mask_id, seed=5)
    assert all(parameter.is_meta for parameter in shape.parameters())
    assert {name: each.shape for name, each in shape.state_dict().items()} == {
        name: each.shape for name, each in stored.items()
    }


def test_a_frozen_base_takes_two_bytes_and_what_is_trained_stays_in_fp32(tiny, tokenizer):
    model = tiny()
    add_adapters(model, LoraConfig(rank=2), mask_id=tokenizer.mask_id, seed=1)
    freeze(model, torch.bfloat16)
    for parameter in model.parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)
    ids = torch.arange(20, 52)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model({"input_ids": ids, "labels": ids + 1})["loss"].backward()
    assert all(each.grad.isfinite().all() for each in model.parameters() if each.requires_grad)


def test_mistakes_are_named(tiny, tokenizer):
    with pytest.raises(ConfigError, match=r"lora.rank=8 adapts a finished model, but model.base is not set"):
        load_config(RecipeConfig, None, ["lora.rank=8"])
    with pytest.raises(ConfigError, match=r"lora.target_modules names lm_head"):
        load_config(RecipeConfig, None, ["lora.target_modules=[lm_head]"])
    with pytest.raises(ConfigError, match=r"lora.target_modules=\['query'\]: no linear layer of the llama decoder has"):
        add_adapters(tiny(), LoraConfig(rank=2, target_modules=("query",)), mask_id=tokenizer.mask_id, seed=1)
