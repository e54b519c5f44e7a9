"""How a model is prompted and what ends its answers: checkpoints record it, exports and generation go by it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from meap.json_text import parse_json, read_small
from meap.manifest import ROWS

__all__ = ["EXPORT_RECORD_NAME", "ChatTemplate", "Usage", "join_ids", "read_export_record"]

ChatTemplate: TypeAlias = str | list[dict[str, str]]
"""Jinja text, or several texts with their names, as tokenizer_config.json has them."""

EXPORT_RECORD_NAME: Final = "meap_export.json"
"""Records where an exported folder came from. An export replaces only folders that have it."""


@dataclass(frozen=True)
class Usage:
    """How a model is prompted, and what ends its answers."""

    kind: str = ROWS
    """`conversations` for a model that was trained on them, or whose base came with a chat template; else `rows`."""
    begins_with_bos: bool = False
    """Whether BOS stands before each document or conversation of the rows."""
    stop_ids: tuple[int, ...] = ()
    """Ids of the tokens that end scored answers, of this training and of those before it."""
    chat_template: ChatTemplate | None = None
    """What rendered the conversations; without any, that of the base or of the tokenizer."""
    generation: dict[str, Any] = field(default_factory=dict[str, Any])
    """The base's generation_config.json."""

    def ends(self, eos_id: int) -> list[int]:
        """Ids that end an answer: those that ended scored answers, EOS, and the base's own."""
        return join_ids(self.stop_ids, eos_id, self.generation.get("eos_token_id"))


def join_ids(*sources: int | Collection[int] | None) -> list[int]:
    """Ids of all sources in their order, each once: an id, several, or None, as `eos_token_id` has them."""
    ids = (each for source in sources for each in ((source,) if isinstance(source, int) else source or ()))
    return list(dict.fromkeys(ids))


def read_export_record(folder: Path) -> dict[str, Any] | None:
    """`meap.export.hf.ExportRecord` of `folder` as a dictionary; None where it is not an export of this project."""
    try:
        record = parse_json(read_small(folder / EXPORT_RECORD_NAME).decode())
        return cast("dict[str, Any]", record) if record["source"]["run"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
