"""Problems of a data set: one finding each, with its file and a remedy."""

from __future__ import annotations

from dataclasses import dataclass

from meap.errors import DataError

__all__ = ["FETCH_AGAIN", "PREPARE_AGAIN", "Finding", "ShardError"]

FETCH_AGAIN = (
    "copy the file again from where the data set was made, or delete it and run the same preparation command again"
)
PREPARE_AGAIN = "prepare the data again, in another folder"


@dataclass(frozen=True)
class Finding:
    """One problem."""

    file: str
    """Path or URL."""
    what: str
    expected: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}: expected {self.expected}, found {self.found}: {self.remedy}"


class ShardError(DataError):
    """A shard cannot be read further; holds the finding."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding
