"""A small model with training's own attention."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from meap.tokenizer import Tokenizer
from meap.train.attention import choose_attention


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Models this small lose by threads, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def follow_card():
    """Do what the card of an exported folder tells; returns what that leaves behind, by name."""

    def follow(folder: Path) -> dict[str, Any]:
        (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        namespace: dict[str, Any] = {}
        exec(code.replace("path/of/this/folder", str(folder)), namespace)
        return namespace

    return follow


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
