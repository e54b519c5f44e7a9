"""Any causal language model of transformers behind the `meap.evals.lm.LanguageModel` protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel

from meap.config import TokenizerConfig
from meap.errors import CheckpointError, ConfigError
from meap.tokenizer import Tokenizer, load_tokenizer

__all__ = ["HuggingFaceLM", "load_model"]

_NUM_LOGITS = 1 << 29
"""Logits of a forward pass are kept below this many (2 GiB in fp32), whatever the batch size asks for."""


def load_model(name: str, tokenizer_config: TokenizerConfig, *, batch_size: int) -> HuggingFaceLM:
    """Load a model and its tokenizer: onto the GPU in bf16 where there is one, else onto the CPU in fp32.

    The tokenizer is read by `meap.tokenizer.load_tokenizer`, as data preparation reads it: the same text gives the same
    ids as in training, and text that spells a mask token does not become one.

    Args:
        name: Local folder, or name on the Hugging Face hub. Only safetensors are read, and no code that comes with it.
        tokenizer_config: Which tokens delimit documents and mark masks, where the model's own tokenizer does not say;
            its `name` is not used.
        batch_size: Rows or prompts per forward pass.

    Raises:
        CheckpointError: There is no such model, or it cannot be loaded.
        ConfigError: The tokenizer defines no BOS or EOS token.
        DataError: The tokenizer cannot be read.
    """
    folder = Path(name)
    looks_local = folder.is_absolute() or name.startswith(".") or name.count("/") != 1
    if not (folder / "config.json").is_file() and (looks_local or folder.exists()):
        raise CheckpointError(
            f"eval.model={name} holds no exported model (no config.json): run recipes/export_hf.py first, or give "
            "eval.model=<Hugging Face folder or hub name>"
        )
    tokenizer = load_tokenizer(dataclasses.replace(tokenizer_config, name=name))
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, attn_implementation="sdpa", dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        raise CheckpointError(
            f"eval.model={name} cannot be loaded ({type(error).__name__}: {reason}): export it again, or check the name"
        ) from error
    device = torch.device("cuda" if on_gpu else "cpu")
    # Called on the base class: transformers wraps `to` in a way that hides its parameters from type checkers.
    torch.nn.Module.to(model, device)
    return HuggingFaceLM(model, tokenizer, name=name, batch_size=batch_size)


class HuggingFaceLM:
    """A loaded model.

    Args:
        model: The model, on its device and in its precision.
        tokenizer: Its tokenizer: the end-of-text id ends an answer; mask, BOS, padding and ids beyond the vocabulary
            are never generated.
        name: What it is called in the results.
        batch_size: Rows or prompts per forward pass.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Tokenizer, *, name: str, batch_size: int) -> None:
        self.tokenizer = tokenizer
        self._model = model.eval()
        self._name = name
        self._batch_size = batch_size
        self._eos_id = tokenizer.eos_id
        self._num_logits = int(model.config.vocab_size)
        self._max_positions = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        banned = {tokenizer.mask_id, tokenizer.bos_id, model.config.pad_token_id} - {tokenizer.eos_id, None}
        # Some tokenizers begin and end texts with the same token; rows that pad the embedding have no text.
        banned |= set(range(tokenizer.vocab_size, self._num_logits))
        self._banned_ids = sorted(token_id for token_id in banned if token_id < self._num_logits)

    @property
    def max_positions(self) -> int:
        """Most tokens that a forward pass may see."""
        return self._max_positions

    @torch.inference_mode()
    def loglikelihoods(self, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        """See `LanguageModel.loglikelihoods`; the softmax is computed in fp32 whatever the model's precision.

        Raises:
            ConfigError: A row is longer than the model's context.
            CheckpointError: The model computes values that are not finite.
        """
        self._require_fit(max(len(row) - 1 for row in rows), "a row to score")
        results: dict[int, NDArray[np.float64]] = {}
        for batch in self._batches([len(row) for row in rows]):
            width = max(len(rows[index]) for index in batch) - 1
            # Padding on the right is invisible to the causal positions before it, so that no attention mask is needed.
            tokens_BT = torch.full((len(batch), width + 1), self._eos_id)
            for place, index in enumerate(batch):
                tokens_BT[place, : len(rows[index])] = torch.from_numpy(np.asarray(rows[index], np.int64))
            tokens_BT = tokens_BT.to(self._model.device)
            logits_by_row = self._model(input_ids=tokens_BT[:, :-1], use_cache=False).logits
            for place, index in enumerate(batch):
                scored = len(rows[index]) - 1
                losses_T = F.cross_entropy(
                    logits_by_row[place, :scored].float(), tokens_BT[place, 1 : scored + 1], reduction="none"
                )
                results[index] = -losses_T.double().cpu().numpy()
                if not np.isfinite(results[index]).all():
                    raise CheckpointError(
                        f"model {self._name} computes log-likelihoods that are not finite: its weights are damaged or "
                        "its training diverged"
                    )
        return [results[index] for index in range(len(rows))]

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
        """See `LanguageModel.generate`; prompts of a batch are padded on the left, with positions counted past it.

        Raises:
            ConfigError: A prompt and its continuation are longer than the model's context.
        """
        self._require_fit(max(map(len, prompts)) + max_new_tokens, "a prompt and its continuation")
        results: dict[int, list[int]] = {}
        for batch in self._batches([len(prompt) + max_new_tokens for prompt in prompts]):
            generated = self._generate_batch([prompts[index] for index in batch], max_new_tokens)
            results |= dict(zip(batch, generated, strict=True))
        return [results[index] for index in range(len(prompts))]

    def describe(self) -> dict[str, Any]:
        """Name, size, context, precision and device."""
        return {
            "name": self._name,
            "parameters": sum(parameter.numel() for parameter in self._model.parameters()),
            "max_positions": self._max_positions,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": str(self._model.device),
        }

    def _generate_batch(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        device, width = self._model.device, max(map(len, prompts))
        input_ids_BT = torch.full((len(prompts), width), self._eos_id)
        attention_BT = torch.zeros((len(prompts), width + max_new_tokens), dtype=torch.int64)
        for place, prompt in enumerate(prompts):
            input_ids_BT[place, width - len(prompt) :] = torch.tensor(prompt)
            attention_BT[place, width - len(prompt) :] = 1
        input_ids_BT, attention_BT = input_ids_BT.to(device), attention_BT.to(device)
        position_ids_BT = (attention_BT.cumsum(1) - 1).clamp(min=0)

        steps: list[torch.Tensor] = []
        cache: Any = None
        ended_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        seen = 0
        while len(steps) < max_new_tokens and not bool(ended_B.all()):
            end = seen + input_ids_BT.shape[1]
            output = self._model(
                input_ids=input_ids_BT,
                attention_mask=attention_BT[:, :end],
                position_ids=position_ids_BT[:, seen:end],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,  # logits of a whole long prompt would not fit into memory
            )
            cache, seen = output.past_key_values, end
            logits = output.logits[:, -1].float()
            logits[:, self._banned_ids] = -torch.inf
            steps.append(logits.argmax(-1))
            ended_B |= steps[-1] == self._eos_id
            input_ids_BT = steps[-1][:, None]
        new_ids = torch.stack(steps, 1).tolist() if steps else [[] for _ in prompts]
        return [ids[: ids.index(self._eos_id)] if self._eos_id in ids else ids for ids in new_ids]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices, longest first: little padding, and memory runs out at once if it runs out at all."""
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        while order:
            fitting = max(1, _NUM_LOGITS // (self._num_logits * lengths[order[0]]))
            size = min(self._batch_size, fitting)
            yield order[:size]
            del order[:size]

    def _require_fit(self, length: int, what: str) -> None:
        if length > self._max_positions:
            raise ConfigError(
                f"{what} takes {length:,} tokens, but model {self._name} was made for {self._max_positions:,}: give it "
                "shorter ones, nothing is cut silently"
            )
