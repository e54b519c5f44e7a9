"""Architecture, tokenizer and usage, kept with checkpoints: exporting one needs neither the data nor the base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from meap.checkpoints import CheckpointFile, ModelRecord, describe_content
from meap.manifest import CONVERSATIONS, Manifest
from meap.schema import TOKENIZER_DIR
from meap.tokenizer import Tokenizer, tokenizer_files
from meap.train.model import NextTokenModel
from meap.usage import Usage, join_ids

__all__ = ["record_model", "usage_after"]

_ADDRESS = "_name_or_path"


def record_model(
    model: NextTokenModel, tokenizer: Tokenizer, usage: Usage, *, before: ModelRecord | None
) -> tuple[ModelRecord, dict[CheckpointFile, bytes]]:
    """The record of a model, and the files it names with their contents.

    Args:
        model: The model.
        tokenizer: What made the rows it is trained on.
        usage: How it is prompted, see `usage_after`.
        before: The record of the checkpoint that a run resumes from. It is kept, with the files it names: another
            version of a library may write the same tokenizer as other bytes.
    """
    contents = {
        describe_content(content, f"{TOKENIZER_DIR}/{name}"): content
        for name, content in tokenizer_files(tokenizer).items()
    }
    if before is not None:
        return before, {file: content for file, content in contents.items() if file in before.tokenizer_files}
    architecture = json.loads(model.config.to_json_string(use_diff=False))
    architecture.pop(_ADDRESS, None)
    return (
        ModelRecord(
            architecture=architecture,
            rows_without_mask=model.rows_without_mask,
            tokenizer=tokenizer.record,
            tokenizer_files=tuple(contents),
            usage=usage,
        ),
        contents,
    )


def usage_after(manifests: Sequence[Manifest], tokenizer: Tokenizer, *, base: Usage) -> Usage:
    """How a model is prompted once it was trained on the rows of `manifests`, which are of one kind.

    Args:
        manifests: Of each stream of its training split.
        tokenizer: What made the rows; of conversations, with the template that rendered them.
        base: How it was prompted before.
    """
    template = tokenizer.source_config.get("chat_template")
    is_conversations = manifests[0].kind == CONVERSATIONS
    return Usage(
        kind=CONVERSATIONS if is_conversations else base.kind,
        begins_with_bos=(
            _writes_bos(template, tokenizer)
            if is_conversations
            else tokenizer.bos_id is not None and tokenizer.bos_id in manifests[0].tokenizer.borders[:-1]
        ),
        stop_ids=tuple(join_ids(*(each.stop_ids for each in manifests), base.stop_ids)),
        chat_template=template if is_conversations else base.chat_template or template,
        generation=base.generation,
    )


def _writes_bos(template: str | None, tokenizer: Tokenizer) -> bool:
    """Whether a conversation that the template renders begins with BOS."""
    question = {"role": "user", "content": "Hello"}
    names: dict[str, Any] = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token}
    try:
        (text,), _ = render_jinja_template([[question]], chat_template=template, add_generation_prompt=True, **names)
    except Exception:  # noqa: BLE001  # a program from outside, which may refuse a conversation such as this
        return False
    return tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
