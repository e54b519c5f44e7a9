"""How a model is prompted once it was trained on the rows of a data set: what its checkpoints record for its users."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from meap.manifest import CONVERSATIONS, Manifest
from meap.tokenizer import Tokenizer
from meap.train.data import RunData
from meap.train.model import NextTokenModel
from meap.usage import ChatTemplate, Usage, join_ids

__all__ = ["usage_after", "usage_of"]

_PROBES = ("Q7", "x4")
"""Answers that differ from the first character on."""


def usage_of(data: RunData, model: NextTokenModel) -> Usage:
    """How the model of a run is prompted once it was trained on the run's data."""
    manifests = [stream.manifest for stream in data.shards.streams]
    return usage_after(manifests, data.tokenizer, base=model.base_usage)


def usage_after(manifests: Sequence[Manifest], tokenizer: Tokenizer, *, base: Usage) -> Usage:
    """How a model is prompted once it was trained on the rows of `manifests`, which are of one kind.

    Args:
        manifests: Of each stream of its training split.
        tokenizer: What made the rows; of conversations, with the template that rendered them.
        base: How it was prompted before.
    """
    template: ChatTemplate | None = tokenizer.source_config.get("chat_template")
    stop_ids = tuple(join_ids(*(each.stop_ids for each in manifests), base.stop_ids))
    if manifests[0].kind == CONVERSATIONS and isinstance(template, str):
        rendered = _Rendered(template, tokenizer)
        return Usage(CONVERSATIONS, rendered.begins_with_bos, stop_ids, rendered.prompting_template, base.generation)
    begins_with_bos = tokenizer.bos_id is not None and tokenizer.bos_id in manifests[0].tokenizer.borders[:-1]
    return Usage(base.kind, begins_with_bos, stop_ids, base.chat_template or template, base.generation)


class _Rendered:
    """What a template makes of a question and its answers.

    Args:
        template: Its Jinja text.
        tokenizer: Its special tokens.
    """

    def __init__(self, template: str, tokenizer: Tokenizer) -> None:
        self._template = template
        self._bos_token = tokenizer.bos_token
        self._names: dict[str, Any] = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token}

    @property
    def begins_with_bos(self) -> bool:
        """Whether a conversation begins with BOS."""
        text = self._text(add_generation_prompt=True)
        return self._bos_token is not None and text is not None and text.startswith(self._bos_token)

    @property
    def prompting_template(self) -> str:
        """The template, made to write what stands before an answer where it ignores `add_generation_prompt`.

        Preparation scores no role's header, so that a model would not write it by itself.
        """
        without, prompt = self._text(), self._text(add_generation_prompt=True)
        one, two = (self._text(answer=each) for each in _PROBES)
        if without is None or one is None or two is None or prompt != without:
            return self._template
        common = os.path.commonprefix([one, two])  # noqa: RUF071  # of strings
        # As preparation has it: white space before an answer is the model's, which writes it with a word.
        header = common.removeprefix(without).rstrip(" ") if common.startswith(without) else ""
        if not header.strip() or not one[len(common) :].startswith(_PROBES[0]):
            return self._template
        written = f"{{{{ {json.dumps(header, ensure_ascii=False)} if add_generation_prompt else '' }}}}"
        # Jinja drops one line break at the end of a template, and none in its middle.
        return self._template.removesuffix("\n") + written

    def _text(self, *, answer: str | None = None, add_generation_prompt: bool = False) -> str | None:
        """The text of a conversation; None where the template refuses it."""
        messages = [{"role": "user", "content": "Hello"}]
        messages += [] if answer is None else [{"role": "assistant", "content": answer}]
        try:
            (text,), _ = render_jinja_template(
                [messages],
                chat_template=self._template,
                add_generation_prompt=add_generation_prompt,
                **self._names,
            )
        except Exception:  # noqa: BLE001  # a program from outside, which may refuse a conversation such as this
            return None
        return text
