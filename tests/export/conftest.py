"""A small model with training's own attention, and checkpoints as Composer writes them, made by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from meap.checkpoints import CheckpointRecord, CheckpointStore, ModelRecord, describe_file
from meap.manifest import TokenizerRecord
from meap.tokenizer import Tokenizer
from meap.train.attention import choose_attention


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Models this small lose by threads, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )
    config._attn_implementation = choose_attention("sdpa", on_gpu=False, bf16=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        # Larger than the usual initialisation: logits that all but vanish would hide a difference.
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def write_checkpoint() -> Callable[..., Path]:
    def write(path: Path, weights: dict[str, torch.Tensor], *, run_name: str = "small", step: int = 7) -> Path:
        timestamp = {"Timestamp": {"batch": step, "token": step * 100}}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {"state": {"model": weights, "run_name": run_name, "timestamp": timestamp}, "rng": []},
            path,
        )
        return path

    return write


@pytest.fixture
def publish(write_checkpoint, tmp_path) -> Callable[..., Path]:
    """A checkpoint of a run in a folder or behind a URL, with its record; returns its local path."""

    nothing = ModelRecord({}, None, TokenizerRecord("", "", 0, 0, 0, 0), ())

    def write(
        folder: str,
        step: int,
        weights: dict[str, torch.Tensor] | None = None,
        *,
        config=None,
        model: ModelRecord = nothing,
        shared=(),
        **more,
    ) -> Path:
        store, name = CheckpointStore(folder), f"ba{step}.pt"
        local = tmp_path / "written" if store.is_remote else Path(folder)
        path = write_checkpoint(local / name, weights or {"w": torch.ones(step)}, step=step, **more)
        if store.is_remote:
            store.upload([name], local)
        store.share(dict(shared))
        files = (describe_file(path, name),)
        store.publish(CheckpointRecord(step, 0, 0, "small", "full", 1, config or {}, model, {}, {}, files))
        return path

    return write
