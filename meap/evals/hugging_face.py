"""Any causal language model of transformers behind the `meap.evals.lm.LanguageModel` protocol."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from meap.config import EvaluationConfig
from meap.errors import CheckpointError, ConfigError, first_line
from meap.evals.attention import read_attention
from meap.evals.lm import Attention, Ids, Reading
from meap.model_sizes import misfit, require_stated_sizes
from meap.noise import hide_loading_bars
from meap.places.near import describe_missing, is_missing, is_there, nearest
from meap.rope import require_same_rope
from meap.run_files import find_model
from meap.tokenizer import Tokenizer, load_tokenizer
from meap.usage import join_ids

__all__ = [
    "HuggingFaceLM",
    "limit_threads",
    "load_context",
    "load_model",
    "load_model_tokenizer",
    "load_weights",
    "require_model_files",
    "weights_hash",
]

_NUM_LOGITS = 1 << 29
"""Most logits of a forward pass (2 GiB in fp32), whatever the batch size."""
_FEW_PARAMETERS = 30_000_000
_MODELS = "the folder of a run that recipes/export_hf.py has exported, a Hugging Face folder or a hub name"
_MOST_CANDIDATES = 32
"""Most rows that are read as one, which bounds the memory of what differs."""
_HASHED_VALUES = 256
"""Values of each tensor that `weights_hash` reads: training changes every one of them."""


def load_model_tokenizer(config: EvaluationConfig) -> Tokenizer:
    """The tokenizer of the model, as `load_model` loads it.

    Raises:
        ConfigError: No model is named, it is a run without an export, or the tokenizer defines no BOS or EOS token.
        DataError: The tokenizer cannot be read.
    """
    name = config.tokenizer.name or find_model(config.require_model())
    return load_tokenizer(dataclasses.replace(config.tokenizer, name=name))


def load_context(config: EvaluationConfig) -> int:
    """Tokens of the model's context, by its config.json alone.

    Raises:
        CheckpointError: The model does not exist, or its configuration cannot be read.
        ConfigError: No model is named, or it is a run without an export.
    """
    name = find_model(config.require_model())
    require_model_files(name)
    try:
        read = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        why = " ".join(str(error).split())
        raise CheckpointError(
            f"model={name}: its config.json cannot be used ({type(error).__name__}: {why}): restore it, or check the "
            "name; code that comes with a model is never run"
        ) from error
    return _max_positions(name, read)


def load_model(config: EvaluationConfig) -> HuggingFaceLM:
    """Load a model and its tokenizer: onto this rank's GPU in bf16 where there is one, else onto the CPU in fp32.

    The tokenizer is read by `meap.tokenizer.load_tokenizer`, as data preparation reads it: the same text gives the same
    ids as in training, and text that spells a mask token does not become one.

    Args:
        config: `model` is a local folder, also that of an exported run, or a name on the Hugging Face hub. Only
            safetensors are read, and code of the model never runs. `tokenizer` names the tokens that delimit documents
            and mark masks, where the model's own tokenizer does not; its `name` defaults to the model's.

    Raises:
        CheckpointError: The model does not exist or cannot be loaded.
        ConfigError: No model is named, it is a run without an export, or the tokenizer defines no BOS or EOS token.
        DataError: The tokenizer cannot be read.
    """
    name = find_model(config.require_model())
    require_model_files(name)
    tokenizer = load_model_tokenizer(config)
    model = load_weights(name)
    return HuggingFaceLM(
        model,
        tokenizer,
        name=name,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
        prefill_chunk=config.prefill_chunk,
    )


def load_weights(name: str) -> PreTrainedModel:
    """The model of a folder or hub name: on this rank's GPU in bf16 where there is one, else on the CPU in fp32.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    on_gpu = torch.cuda.is_available()
    torch.backends.cuda.enable_cudnn_sdp(False)  # it builds a graph for each new length, as each new token makes one
    hide_loading_bars(name)
    require_stated_sizes(f"model={name}", name)
    read: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, found = read(
            name,
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        stored, _ = PretrainedConfig.get_config_dict(name)
    except Exception as error:
        if why := misfit(name, error):
            raise CheckpointError(f"model={name}: {why}") from error
        raise CheckpointError(
            f"model={name} cannot be loaded ({type(error).__name__}: {first_line(error)}): "
            f"{nearest(Path(name)) or 'export it again, or check the name'}"
        ) from error
    if lost := sorted(found["missing_keys"]):
        raise CheckpointError(
            f"model={name}: {len(lost):,} weights of a {model.config.model_type!r} model are not in its files, such as "
            f"{lost[0]}: they would be random; export it again, or give the config.json of these weights"
        )
    require_same_rope(f"model={name}", stored, getattr(model.config, "rope_parameters", None))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    # Called on the base class: transformers wraps `to` in a way that hides its parameters from type checkers.
    torch.nn.Module.to(model, device)
    return model.eval()


def _max_positions(name: str, config: PretrainedConfig) -> int:
    """As good as unlimited where the model states none; MPT has a name of its own for it."""
    text = config.get_text_config()
    stated = getattr(text, "max_position_embeddings", getattr(text, "max_seq_len", None))
    if stated is not None and stated < 1:
        raise CheckpointError(
            f"model={name}: its config.json states a context of {stated} tokens (max_position_embeddings): restore it"
        )
    return stated or 1 << 30


def require_model_files(name: str) -> None:
    """Raise `CheckpointError` where `name` is a folder without a model, or neither a folder nor a name on the hub."""
    folder = Path(name)
    if is_missing(name) or ("/" not in name and nearest(folder)):
        raise CheckpointError(f"model={name} {describe_missing(folder, remedy=f'give {_MODELS}')}")
    if "/" not in name and not is_there(folder):
        raise CheckpointError(
            f"model={name}: there is no such folder, and a hub name begins with an account, as in openai/{name}"
        )
    if is_there(folder) and not (folder / "config.json").is_file():
        raise CheckpointError(f"model={name} holds no exported model (no config.json): give {_MODELS}")


def limit_threads(about: Mapping[str, Any]) -> None:
    """Use one thread for a small model on a CPU, which more threads slow down, most of all on a busy machine."""
    if about["device"] == "cpu" and about["parameters"] < _FEW_PARAMETERS:
        torch.set_num_threads(1)


def weights_hash(model: torch.nn.Module) -> str:
    """Hash of names, shapes and some values of all tensors: equal for equal weights, wherever they come from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.reshape(-1)
        some = flat[:: max(1, flat.numel() // _HASHED_VALUES)].to(torch.float32).cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)}\0".encode() + some.tobytes())
    return "sha256:" + digest.hexdigest()


class HuggingFaceLM:
    """A loaded model.

    Args:
        model: The model, on its device and in its precision.
        tokenizer: Its tokenizer. The end-of-text id ends a response, as do the ids by which generation_config.json ends
            an answer; mask, BOS, padding and ids beyond the vocabulary are never generated.
        name: Its name in the results.
        batch_size: Most rows or prompts per forward pass.
        batch_tokens: Most tokens per forward pass of more than one row or prompt.
        prefill_chunk: Tokens of a row or prompt per forward pass; those before them are in the cache.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        name: str,
        batch_size: int,
        batch_tokens: int = 1 << 15,
        prefill_chunk: int = 1 << 13,
    ) -> None:
        self.tokenizer = tokenizer
        self._model = model.eval()
        self._name = name
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens
        self._chunk = prefill_chunk
        self._eos_id = tokenizer.eos_id
        configured = getattr(model.generation_config, "eos_token_id", None)
        self._ends = frozenset(join_ids(tokenizer.eos_id, configured))
        text = model.config.get_text_config()
        self._num_logits = int(text.vocab_size)
        self._max_positions = _max_positions(name, model.config)
        banned = {tokenizer.mask_id, tokenizer.bos_id, text.pad_token_id} - {*self._ends, None}
        # Some tokenizers have one token as BOS and EOS; ids of padded embedding rows have no text.
        banned |= set(range(tokenizer.vocab_size, self._num_logits))
        self._banned_ids = sorted(token_id for token_id in banned if token_id < self._num_logits)

    @property
    def max_positions(self) -> int:
        """Most tokens that a forward pass may see."""
        return self._max_positions

    @torch.inference_mode()
    def loglikelihoods(self, rows: Sequence[Ids]) -> list[NDArray[np.float64]]:
        """See `LanguageModel.loglikelihoods`; the softmax is computed in fp32 whatever the model's precision.

        Rows that differ in their last token alone, as those of one-token candidates, are read once.

        Raises:
            ConfigError: A row is longer than the model's context.
            CheckpointError: The model computes values that are not finite.
        """
        self._require_fit(max(len(row) - 1 for row in rows), "a row to score")
        by_context: dict[bytes, list[int]] = {}
        for index, row in enumerate(rows):
            by_context.setdefault(np.asarray(row[:-1], np.int64).tobytes(), []).append(index)
        alike = [
            some[start : start + _MOST_CANDIDATES]
            for some in by_context.values()
            for start in range(0, len(some), _MOST_CANDIDATES)
        ]
        results: dict[int, NDArray[np.float64]] = {}
        for batch in self._batches([len(rows[each[0]]) for each in alike]):
            groups = [alike[place] for place in batch]
            width, most = max(len(rows[each[0]]) for each in groups), max(map(len, groups))
            # Causal positions never see padding on their right: no attention mask is needed.
            tokens_CBT = torch.full((most, len(groups), width), self._eos_id)
            places = [(number, place, index) for place, each in enumerate(groups) for number, index in enumerate(each)]
            for number, place, index in places:
                tokens_CBT[number, place, : len(rows[index])] = torch.from_numpy(np.asarray(rows[index], np.int64))
            losses_CBT = self._losses(tokens_CBT.to(self._model.device)).double().cpu().numpy()
            for number, place, index in places:
                results[index] = -losses_CBT[number, place, : len(rows[index]) - 1]
                if not np.isfinite(results[index]).all():
                    raise CheckpointError(
                        f"model {self._name} computes log-likelihoods that are not finite: its weights are damaged or "
                        "its training diverged"
                    )
        return [results[index] for index in range(len(rows))]

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Ids], *, max_new_tokens: int, stop: str = "") -> list[list[int]]:
        """See `LanguageModel.generate`; prompts of a batch are padded on the left, with positions counted past it.

        Raises:
            ConfigError: A prompt and its continuation are longer than the model's context.
        """
        self._require_fit(max(map(len, prompts)) + max_new_tokens, "a prompt and its continuation")
        results: dict[int, list[int]] = {}
        for batch in self._batches([len(prompt) + max_new_tokens for prompt in prompts]):
            generated = self._generate_batch([prompts[index] for index in batch], max_new_tokens, stop)
            results |= dict(zip(batch, generated, strict=True))
        return [results[index] for index in range(len(prompts))]

    def attention(self, readings: Sequence[Reading]) -> list[Attention]:
        """See `LanguageModel.attention`; computed in fp32 whatever the model's precision.

        Raises:
            ConfigError: A row is longer than the model's context.
            CheckpointError: The model returns no attention weights, or unusable ones.
        """
        self._require_fit(max(len(each.ids) for each in readings), "a row to read")
        return read_attention(self._model, readings, name=self._name, batch_tokens=self._batch_tokens)

    def describe(self) -> dict[str, Any]:
        """Name, hash of the weights, size, context, precision and device."""
        return {
            "name": self._name,
            "weights": weights_hash(self._model),
            "parameters": sum(parameter.numel() for parameter in self._model.parameters()),
            "max_positions": self._max_positions,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": self._model.device.type,
        }

    def _losses(self, tokens_CBT: torch.Tensor) -> torch.Tensor:
        """Losses of each token but the first, for C rows in each place that differ in their last token alone."""
        tokens_BT = tokens_CBT[0]
        num_rows, last = tokens_BT.shape[0], tokens_BT.shape[1] - 1
        # The logits of a long row would not fit in memory; shorter rows are read at once.
        chunk = max(1, min(self._chunk, _NUM_LOGITS // (self._num_logits * num_rows)))
        losses: list[torch.Tensor] = []
        cache: Any = None
        for start in range(0, last, chunk):
            end = min(start + chunk, last)
            output = self._model(input_ids=tokens_BT[:, start:end], cache=cache, use_cache=last > chunk)
            cache = output.cache
            targets_BTC = tokens_CBT[:, :, start + 1 : end + 1].permute(1, 2, 0)
            losses.append(-output.logits.float().log_softmax(-1).gather(-1, targets_BTC))
        return torch.cat(losses, 1).permute(2, 0, 1)

    def _generate_batch(self, prompts: Sequence[Ids], max_new_tokens: int, stop: str) -> list[list[int]]:
        device, width = self._model.device, max(map(len, prompts))
        input_ids_BT = torch.full((len(prompts), width), self._eos_id)
        attention_BT = torch.zeros((len(prompts), width + max_new_tokens), dtype=torch.int64)
        for place, prompt in enumerate(prompts):
            input_ids_BT[place, width - len(prompt) :] = torch.from_numpy(np.asarray(prompt, np.int64))
            attention_BT[place, width - len(prompt) :] = 1
        # Without padding no mask is needed, and causal kernels need no quadratic memory.
        padded = bool((attention_BT == 0).any())
        input_ids_BT, attention_BT = input_ids_BT.to(device), attention_BT.to(device)
        position_ids_BT = (attention_BT.cumsum(1) - 1).clamp(min=0)

        new_ids: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        cache: Any = None
        seen = 0
        for _ in range(max_new_tokens):
            output: Any = None
            for start in range(0, input_ids_BT.shape[1], self._chunk):
                piece_BT = input_ids_BT[:, start : start + self._chunk]
                end = seen + piece_BT.shape[1]
                output = self._model(
                    input_ids=piece_BT,
                    attention_mask=attention_BT[:, :end] if padded else None,
                    position_ids=position_ids_BT[:, seen:end] if padded else None,
                    cache=cache,
                    use_cache=True,
                    logits_to_keep=1,  # the logits of a long prompt would not fit in memory
                )
                cache, seen = output.cache, end
            logits = output.logits[:, -1].float()
            logits[:, self._banned_ids] = -torch.inf
            chosen_B = logits.argmax(-1)
            for place, token_id in enumerate(chosen_B.tolist()):
                if not ended[place]:
                    ended[place] = self._add(new_ids[place], token_id, stop)
            if all(ended):
                break
            input_ids_BT = chosen_B[:, None]
        return new_ids

    def _add(self, ids: list[int], token_id: int, stop: str) -> bool:
        """Add a token to a continuation, unless it ends the text; returns whether the continuation has ended."""
        if token_id in self._ends:
            return True
        ids.append(token_id)
        return bool(stop) and stop in self.tokenizer.decode(ids).lstrip()

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Batches of indices, longest first: little padding, and a lack of memory shows at once."""
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        while order:
            size = max(1, min(self._batch_size, self._batch_tokens // lengths[order[0]]))
            yield order[:size]
            del order[:size]

    def _require_fit(self, length: int, what: str) -> None:
        if length > self._max_positions:
            raise ConfigError(
                f"{what} takes {length:,} tokens, but the context of model {self._name} is {self._max_positions:,}: "
                "give shorter ones, since nothing is truncated"
            )
