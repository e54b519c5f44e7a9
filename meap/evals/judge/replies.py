"""All replies of a judge, each stored as a line at once: a killed evaluation never pays for a reply twice."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meap.json_text import parse_json
from meap.places.whole import append_whole

__all__ = ["Reply", "ReplyStore"]


@dataclass(frozen=True)
class Reply:
    """A reply of a judge."""

    key: str
    """Hash of judge and prompt."""
    text: str
    model: str
    """Name of the model that replied, as the endpoint gives it."""
    date: str
    """Time of the reply, in ISO 8601."""
    dollars: float
    """Cost."""


class ReplyStore:
    """Replies by key, and their cost with that of failed requests.

    Args:
        path: File of JSON lines, created with the first reply; one process writes it, from any thread.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._replies: dict[str, Reply] = {}
        self.spent = 0.0
        """Dollars."""
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            self._read(line)

    def get(self, key: str) -> Reply | None:
        """The reply with this key, or None."""
        return self._replies.get(key)

    def add(self, reply: Reply) -> None:
        """Store a reply."""
        with self._lock:
            self._write(asdict(reply))
            self._replies[reply.key] = reply
            self.spent += reply.dollars

    def add_lost(self, dollars: float, reason: str) -> None:
        """Store the possible cost of a request without a reply."""
        with self._lock:
            self._write({"lost": reason, "dollars": dollars})
            self.spent += dollars

    def _read(self, line: str) -> None:
        try:
            found = parse_json(line)
            dollars = float(found["dollars"])
            # A number that cannot be a cost would switch the budget off.
            self.spent += dollars if math.isfinite(dollars) and dollars > 0 else 0.0
            if "lost" not in found and isinstance(found["text"], str):
                self._replies[found["key"]] = Reply(**found)
        except (ValueError, TypeError, KeyError):
            return  # the process was killed while it wrote the line: the question is asked again

    def _write(self, values: dict[str, Any]) -> None:
        append_whole(self.path, json.dumps(values) + "\n")
