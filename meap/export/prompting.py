"""The tokenizer and the settings of an exported folder: with these alone a stranger prompts, batches and stops.

chat template   of a model that was trained on conversations: what rendered them
BOS             written before a text by the tokenizer's post-processor, as it stood before each document in training; a
                template writes its own, and `apply_chat_template` adds none
ends            ids that end an answer: those that ended scored answers, EOS, and the base's own
padding         on the left, as generation needs it, with a token that ends no answer where there is one
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

from transformers import AutoTokenizer, PretrainedConfig
from transformers.utils import GENERATION_CONFIG_NAME

from meap.config import TokenizerConfig
from meap.errors import MismatchError
from meap.json_text import parse_json
from meap.manifest import CONVERSATIONS
from meap.places.whole import temporary_folder, write_whole
from meap.tokenizer import Tokenizer, load_tokenizer
from meap.usage import Usage, join_ids

__all__ = ["Prompting", "require_readable"]

_PROBE: Final = "The lamp, 12,345 times!\n\n\tdéjà  vu, 東京 \U0001f642 def f(x):\r\n    return x"
_TOKENIZER_FILE: Final = "tokenizer.json"
_ADDING: Final = ("TemplateProcessing", "BertProcessing", "RobertaProcessing")
"""Post-processors that add tokens; the others only change offsets."""
_PAD_NAMES: Final = (r"(?<![a-z])pad(?![a-z])", r"reserved|unused")
"""Tokens that vocabularies have for padding, or for whoever needs one, the better first."""
_ROLES: Final = ("unk_token", "sep_token", "cls_token", "pad_token")
_NOT_SETTINGS: Final = ("_from_model_config", "transformers_version")


@dataclass(frozen=True)
class Prompting:
    """How an exported model is used.

    Args:
        tokenizer: The tokenizer it was trained with, mask token included.
        usage: How it is prompted.
        with_mask: Whether the exported vocabulary has the mask token.
        context: Longest input in tokens.
    """

    tokenizer: Tokenizer
    usage: Usage
    with_mask: bool
    context: int

    @property
    def ends(self) -> list[int]:
        """Ids that end an answer."""
        return self.usage.ends(self.tokenizer.eos_id)

    @property
    def eos_token_id(self) -> int | list[int]:
        """The same as configurations state them."""
        return self.ends if len(self.ends) > 1 else self.ends[0]

    @property
    def pad_token(self) -> str:
        """The token that fills up a batch.

        The base's own where it has one. Else a token that ends no answer: whoever trains further and leaves padding out
        of the loss, as TRL does, would otherwise leave out the end of every answer, too. It never stands in a prompt
        either, since `generate` takes such tokens for padding where it is given no attention mask.
        """
        ids = self._vocabulary.get_vocab(with_added_tokens=True)
        own = _content(self.tokenizer.source_config.get("pad_token"))
        if own in ids:
            return cast("str", own)
        tokens = {number: token for token, number in ids.items()}
        if (pad_id := self.usage.generation.get("pad_token_id")) in tokens:
            return tokens[cast("int", pad_id)]
        special = {n: t.content for n, t in self._vocabulary.get_added_tokens_decoder().items() if t.special}
        apart = {*self.ends, self.tokenizer.bos_id, self.tokenizer.mask_id}
        free = [token for number, token in sorted(special.items()) if number not in apart]
        named = [token for name in _PAD_NAMES for token in free if re.search(name, token.lower())]
        unknown = [token for token in free if token == _content(self.tokenizer.source_config.get("unk_token"))]
        mask = [self.tokenizer.mask_token] if self.with_mask else []
        return [*named, *unknown, *mask, self.tokenizer.eos_token][0]

    @property
    def generation_settings(self) -> dict[str, Any]:
        """What generation_config.json holds: the base's settings, and what this model's vocabulary and answers need."""
        base = {name: value for name, value in self.usage.generation.items() if name not in _NOT_SETTINGS}
        tokens = self._vocabulary.get_vocab(with_added_tokens=True)
        bos_id, pad_id = self.tokenizer.bos_id, base.get("pad_token_id")
        # Input symbols: neither is ever a target in training.
        suppressed = base.get("suppress_tokens")
        for token_id in (self.tokenizer.mask_id, self.tokenizer.direction_id):
            suppressed = join_ids(suppressed, token_id if self.with_mask else None)
        changed = {
            "eos_token_id": self.eos_token_id,
            "pad_token_id": pad_id if pad_id in tokens.values() else tokens[self.pad_token],
            "transformers_version": version("transformers"),
        }
        changed |= {} if bos_id is None else {"bos_token_id": bos_id}
        changed |= {"suppress_tokens": suppressed} if suppressed else {}
        return base | changed

    def write(self, folder: Path) -> None:
        """Write generation_config.json and the tokenizer, as `meap` and transformers read them alike.

        Raises:
            MismatchError: transformers encodes text differently from training.
        """
        # Not by GenerationConfig.save_pretrained, which refuses what some bases have, such as a temperature without
        # sampling.
        settings = json.dumps(self.generation_settings, indent=2, sort_keys=True)
        write_whole(folder / GENERATION_CONFIG_NAME, settings + "\n")
        tokenizer, (prefix, processor) = self.tokenizer, self._text_prefix()
        config = self._tokenizer_config(prefix)
        dataclasses.replace(tokenizer, source_config=config).save(folder, with_mask=self.with_mask)
        definition = parse_json((folder / _TOKENIZER_FILE).read_text(encoding="utf-8"))
        if definition["post_processor"] != processor:
            text = json.dumps(definition | {"post_processor": processor}, indent=2, ensure_ascii=False)
            write_whole(folder / _TOKENIZER_FILE, text)
        stored = load_tokenizer(TokenizerConfig(name=str(folder), mask_token=tokenizer.mask_token))
        stored.require_fingerprint(tokenizer.fingerprint, owner="the exported model")
        self._verify(AutoTokenizer.from_pretrained(folder, local_files_only=True), prefix)

    @property
    def _vocabulary(self) -> Any:
        return self.tokenizer.full if self.with_mask else self.tokenizer.plain

    def _tokenizer_config(self, prefix: list[int]) -> dict[str, Any]:
        tokens = self._vocabulary.get_vocab(with_added_tokens=True)
        left_out = ("add_bos_token", "add_eos_token", *_ROLES)
        config = {name: value for name, value in self.tokenizer.source_config.items() if name not in left_out}
        # A token that the vocabulary lacks would be added by transformers, with an id that the model has no row for.
        roles = {name: _content(self.tokenizer.source_config.get(name)) for name in _ROLES}
        config |= {name: token for name, token in roles.items() if token in tokens}
        for name in ("additional_special_tokens", "extra_special_tokens"):
            if isinstance(config.get(name), list):
                config[name] = [token for token in map(_content, config[name]) if token in tokens]
        if self.usage.chat_template is not None:
            config["chat_template"] = self.usage.chat_template
        if prefix in ([], [self.tokenizer.bos_id]):
            config |= {"add_bos_token": bool(prefix), "add_eos_token": False}
        return (
            {"clean_up_tokenization_spaces": False}
            | config
            | {
                # The generic tokenizer class also returns token_type_ids, which generate() of Llama rejects.
                "model_input_names": ["input_ids", "attention_mask"],
                "model_max_length": self.context,
                "pad_token": self.pad_token,
                "padding_side": "left",
            }
        )

    def _text_prefix(self) -> tuple[list[int], dict[str, Any] | None]:
        """Ids before those of a text, and the post-processor that puts them there."""
        full, bos_id = self.tokenizer.full, self.tokenizer.bos_id
        ids, own = (full.encode(_PROBE, add_special_tokens=each).ids for each in (False, True))
        before = own[: len(own) - len(ids)] if own[len(own) - len(ids) :] == ids else None
        prefix = list[int]()
        if self.usage.begins_with_bos:
            assert bos_id is not None
            prefix = [bos_id]
        elif self.usage.kind == CONVERSATIONS:  # a template without BOS says nothing about text: it stays the base's
            prefix = before if before is not None else own[:1] if own[:1] == [bos_id] else []
        processor = parse_json(full.to_str())["post_processor"]
        return prefix, processor if before == prefix else self._with_prefix(processor, prefix)

    def _with_prefix(self, processor: dict[str, Any] | None, prefix: list[int]) -> dict[str, Any] | None:
        """The post-processor with BOS, or nothing, in place of what it adds."""
        parts = [] if processor is None else processor.get("processors", [processor])
        parts = [each for each in parts if each["type"] not in _ADDING]
        if prefix:
            parts.append(_adding(cast("str", self.tokenizer.bos_token), prefix))
        return {"type": "Sequence", "processors": parts} if len(parts) > 1 else parts[0] if parts else None

    def _verify(self, read: Any, prefix: list[int]) -> None:
        # For some architectures transformers forces a tokenizer class that encodes differently.
        ids = self.tokenizer.encode(_PROBE)
        # Not verbose: transformers would warn where the probe is longer than a small model's context.
        alone, with_prefix = (read(_PROBE, add_special_tokens=each, verbose=False).input_ids for each in (False, True))
        if alone != ids or with_prefix != prefix + ids:
            raise MismatchError(
                f"beside a model of this architecture, transformers reads tokenizer {self.tokenizer.name!r} as "
                f"{type(read).__name__}, which encodes text differently: choose another model.architecture, or prepare "
                "the data with a tokenizer of its own kind"
            )


def require_readable(tokenizer: Tokenizer, config: PretrainedConfig) -> None:
    """Refuse a tokenizer that transformers reads as another one beside a model of this configuration.

    Else the export would do so, when the training is over.

    Raises:
        MismatchError: It does.
    """
    with temporary_folder("meap-tokenizer-") as folder:
        config.save_pretrained(folder)
        Prompting(tokenizer, Usage(), with_mask=True, context=config.max_position_embeddings).write(folder)


def _adding(token: str, ids: list[int]) -> dict[str, Any]:
    """The post-processor that writes a token before each text."""
    first, second = ([{"Sequence": {"id": name, "type_id": number}}] for number, name in enumerate("AB"))
    before, between = ([{"SpecialToken": {"id": token, "type_id": number}}] for number in range(2))
    return {
        "type": "TemplateProcessing",
        "single": before + first,
        "pair": before + first + between + second,
        "special_tokens": {token: {"id": token, "ids": ids, "tokens": [token]}},
    }


def _content(token: Any) -> str | None:
    """Text of a special token, which configurations give alone or with its options."""
    return cast("Mapping[str, Any]", token).get("content") if isinstance(token, Mapping) else token
