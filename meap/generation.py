"""A Hugging Face model continues a prompt: as text, or as a turn of a chat by its chat template."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from meap.config.commands import GenerateConfig
from meap.errors import ConfigError, DataError, first_line
from meap.extras import require_packages
from meap.manifest import ROWS
from meap.model_sizes import require_stated_sizes
from meap.run_files import find_model
from meap.usage import join_ids, read_export_record

__all__ = ["continue_prompt", "encode_prompt", "stop_ids"]

_PROBE = "meap"
"""An answer that no chat template changes."""


def continue_prompt(cfg: GenerateConfig) -> None:
    """Load the model, continue the prompt, and print tokens as they come.

    Raises:
        CheckpointError: There is no such model, or it cannot be loaded.
        ConfigError: The prompt does not fit the model, or a chat is asked for where there is no template.
        DataError: The tokenizer cannot be read.
    """
    require_packages("meap generate", "torch", "transformers", extra="eval")
    from meap.evals.hugging_face import limit_threads, load_weights, require_model_files

    name = find_model(cfg.model or "")
    require_model_files(name)
    require_stated_sizes(f"model={name}", name)  # transformers reads config.json for the tokenizer, too
    tokenizer = _load_tokenizer(name)
    ids = encode_prompt(tokenizer, cfg)
    model: Any = load_weights(name)
    text_config = model.config.get_text_config()
    context = getattr(text_config, "max_position_embeddings", None) or sys.maxsize
    if len(ids) >= context:
        raise ConfigError(
            f"prompt has {len(ids):,} tokens, but model={name} reads {context:,} and needs room to answer: shorten it"
        )
    limit_threads({"device": model.device.type, "parameters": model.num_parameters()})

    import torch
    from transformers import GenerationConfig, TextStreamer

    defaults = model.generation_config
    ends = stop_ids(tokenizer, defaults.eos_token_id, in_chat=_in_chat(tokenizer, cfg))
    sampling: dict[str, Any] = {"temperature": cfg.temperature, "top_p": cfg.top_p, "top_k": 0}
    # The model's own generation_config.json may set sampling and penalties; only the user's keys count here.
    model.generation_config = GenerationConfig(
        max_new_tokens=min(cfg.max_new_tokens, context - len(ids)),
        do_sample=bool(cfg.temperature),
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        # Rows that pad the embedding have no text.
        suppress_tokens=[*(defaults.suppress_tokens or ()), *range(len(tokenizer), text_config.vocab_size)] or None,
        **(sampling if cfg.temperature else {}),
    )
    torch.manual_seed(cfg.seed)
    inputs = torch.tensor([ids], device=model.device)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    model.generate(inputs, attention_mask=torch.ones_like(inputs), streamer=streamer)


def encode_prompt(tokenizer: Any, cfg: GenerateConfig) -> list[int]:
    """Ids of the prompt, as the model has seen such text in training.

    Args:
        tokenizer: transformers' tokenizer of the model.
        cfg: The prompt.

    Raises:
        ConfigError: There is no chat template, it refuses the messages, or the prompt has no token.
    """
    assert cfg.prompt is not None
    if not _in_chat(tokenizer, cfg):
        ids = tokenizer.encode(cfg.prompt, add_special_tokens=cfg.add_bos)
        if not ids:
            raise ConfigError("prompt is empty, and the tokenizer writes no BOS token before it: give it some text")
        return ids
    messages = [{"role": "system", "content": cfg.system}] if cfg.system is not None else []
    messages.append({"role": "user", "content": cfg.prompt})
    text = _render(tokenizer, messages, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)  # the template has written them


def stop_ids(tokenizer: Any, configured: int | Collection[int] | None, *, in_chat: bool) -> list[int]:
    """Ids that end an answer: the model's own, the tokenizer's EOS, and in a chat the template's end of a turn.

    Args:
        tokenizer: transformers' tokenizer of the model.
        configured: `eos_token_id` of the model's generation_config.json.
        in_chat: Whether the prompt is rendered by the chat template.
    """
    ids = join_ids(configured, tokenizer.eos_token_id)
    if in_chat:
        messages = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
        _, found, after = _render(tokenizer, messages).rpartition(_PROBE)
        following = tokenizer.encode(after.lstrip(), add_special_tokens=False) if found else []
        # A turn may also end in plain text, of which no token ends anything.
        ids = join_ids(ids, [each for each in following[:1] if each in tokenizer.added_tokens_decoder])
    return ids


def _in_chat(tokenizer: Any, cfg: GenerateConfig) -> bool:
    has_template = bool(tokenizer.chat_template)
    if not has_template and (cfg.chat == "true" or cfg.system is not None):
        key = "chat=true" if cfg.chat == "true" else "system"
        raise ConfigError(f"{key} needs a chat template, and model={cfg.model} has none: leave it out")
    # An export of ours that was trained on text alone may have the template of a tokenizer that came with one.
    export = read_export_record(Path(tokenizer.name_or_path)) or {}
    return has_template and (cfg.chat == "true" or (cfg.chat == "auto" and export.get("kind") != ROWS))


def _render(tokenizer: Any, messages: list[dict[str, str]], **how: Any) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **how)
    except Exception as error:  # a template is a program from outside
        raise ConfigError(
            f"the model's chat template refuses the messages ({first_line(error)}): leave out system, or set chat=false"
        ) from error


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise DataError(
            f"model={name} has no readable tokenizer ({type(error).__name__}: {first_line(error)}): check the name"
        ) from error
