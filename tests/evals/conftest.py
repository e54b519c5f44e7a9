"""Models that know everything or nothing, and a real one that is small."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from meap.config import EvalConfig
from meap.evals.hugging_face import HuggingFaceLM
from meap.evals.key_retrieval import examples
from meap.tokenizer import Tokenizer


class OracleLM:
    """Knows the answers of all key-retrieval examples; tells them as `spell` has it."""

    max_positions = 4096

    def __init__(self, config: EvalConfig, tokenizer: Tokenizer, spell: Callable[[str], str]) -> None:
        self._tokenizer = tokenizer
        self._spell = spell
        self._answers = {example.prompt: example.answer for example in examples(config)}

    def loglikelihoods(self, rows):
        return [self._loglikelihoods(row) for row in rows]

    def generate(self, prompts, *, max_new_tokens):
        texts = [self._tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
        return [self._tokenizer.encode(self._spell(self._answers[text]))[:max_new_tokens] for text in texts]

    def describe(self):
        return {"name": "oracle"}

    def _loglikelihoods(self, row):
        text = self._tokenizer.decode(row.tolist(), skip_special_tokens=True)
        known = any(text == f"{prompt} {answer}" for prompt, answer in self._answers.items())
        return np.full(len(row) - 1, 0.0 if known else -1.0)


class BlindLM:
    """Finds every token as likely as any other, and always says the same."""

    max_positions = 4096

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def loglikelihoods(self, rows):
        return [np.full(len(row) - 1, -np.log(self._tokenizer.vocab_size)) for row in rows]

    def generate(self, prompts, *, max_new_tokens):
        return [self._tokenizer.encode(" 12345.")[:max_new_tokens] for _ in prompts]

    def describe(self):
        return {"name": "blind"}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Models this small lose by threads, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def oracle(tokenizer):
    def make(config: EvalConfig, spell: Callable[[str], str] = lambda answer: f" {answer}."):
        return OracleLM(config, tokenizer, spell)

    return make


@pytest.fixture
def blind(tokenizer):
    return BlindLM(tokenizer)


@pytest.fixture(scope="session")
def llama(tokenizer) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def lm(llama, tokenizer) -> HuggingFaceLM:
    return HuggingFaceLM(llama, tokenizer, name="small", batch_size=3)
