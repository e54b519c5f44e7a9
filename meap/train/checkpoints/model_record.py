"""Architecture, tokenizer and usage, kept with checkpoints: exporting one needs neither the data nor the base."""

from __future__ import annotations

import dataclasses
from typing import Any

from meap.checkpoints import CheckpointFile, ModelRecord, describe_content
from meap.json_text import parse_json
from meap.schema import TOKENIZER_DIR
from meap.tokenizer import Tokenizer, tokenizer_files
from meap.train.model import NextTokenModel
from meap.usage import Usage

__all__ = ["record_model"]

_ADDRESS = "_name_or_path"


def record_model(
    model: NextTokenModel, tokenizer: Tokenizer, usage: Usage, *, before: ModelRecord | None, is_branch: bool = False
) -> tuple[ModelRecord, dict[CheckpointFile, bytes]]:
    """The record of a model, and the files it names with their contents.

    Args:
        model: The model.
        tokenizer: What made the rows it is trained on.
        usage: How it is prompted, see `meap.train.usage`.
        before: The record of the checkpoint that a run resumes from. It is kept, with the files it names: another
            version of a library may write the same tokenizer as other bytes.
        is_branch: Whether that is of another run, whose folder has those files: here they are written anew.
    """
    contents = {
        describe_content(content, f"{TOKENIZER_DIR}/{name}"): content
        for name, content in tokenizer_files(tokenizer).items()
    }
    frozen: Any = {"base_fingerprint": model.base_fingerprint, "base_dtype": model.base_dtype}
    if before is not None:
        frozen = frozen if model.base_fingerprint else {}  # on other ranks than the first, which records nothing
        if is_branch:
            return dataclasses.replace(before, tokenizer_files=tuple(contents), **frozen), contents
        kept = {file: content for file, content in contents.items() if file in before.tokenizer_files}
        return dataclasses.replace(before, **frozen), kept
    architecture = parse_json(model.config.to_json_string(use_diff=False))
    architecture.pop(_ADDRESS, None)
    return (
        ModelRecord(
            architecture=architecture,
            rows_without_mask=model.rows_without_mask,
            tokenizer=tokenizer.record,
            tokenizer_files=tuple(contents),
            usage=usage,
            **frozen,
        ),
        contents,
    )
