"""The responses to all examples: JSON lines while an evaluation runs, one parquet file when it is done.

    <out_dir>/<task>.parquet                     finished; its metadata holds the key
    <out_dir>/unfinished/<task>-<key>-<rank>.jsonl   a line per response, by rank

The key is a hash of weights, tokenizer and precision. An evaluation with the same key resumes where it was killed, on
any number of ranks: an example with a response to the same prompt is not asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meap.errors import DataError
from meap.evals.task import Example, Response
from meap.json_text import parse_json
from meap.places.whole import append_whole, whole_file
from meap.tokenizer import Tokenizer

__all__ = ["ResponseStore", "hash_of", "prompt_hashes", "read_responses"]

_UNFINISHED = "unfinished"
_KEY = b"meap.key"
_DECODED_AT_ONCE = 256


def hash_of(value: Any) -> str:
    """Hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def prompt_hashes(examples: Sequence[Example], tokenizer: Tokenizer) -> list[str]:
    """For each example, a hash of its prompt and its right answers.

    Text is hashed, not ids, so that models with different tokenizers can be compared.
    """
    hashes: list[str] = []
    for start in range(0, len(examples), _DECODED_AT_ONCE):
        some = examples[start : start + _DECODED_AT_ONCE]
        rows = [(each.prompt, *(one.ids for one in (*each.candidates, *each.readings))) for each in some]
        ids = [row.tolist() for asked in rows for row in asked]
        texts = iter(tokenizer.full.decode_batch(ids, skip_special_tokens=True))
        for each, of_example in zip(some, rows, strict=True):
            asked = [next(texts) for _ in of_example]
            hashes.append(hash_of([each.id, asked, each.max_new_tokens, each.stop, each.answers, each.right]))
    return hashes


class ResponseStore:
    """The responses of one task.

    Args:
        out_dir: Folder of the evaluation.
        task: Name of the task.
        key: Hash of weights, tokenizer and precision.
    """

    def __init__(self, out_dir: Path, task: str, key: str) -> None:
        self._folder = out_dir / _UNFINISHED
        self._task = task
        self._key = key
        self.path = out_dir / f"{task}.parquet"

    def done(self, hashes: Mapping[str, str]) -> dict[str, Response]:
        """Stored responses by id, of examples with these prompt hashes by id."""
        found: list[Response] = []
        if self.path.is_file():
            finished, key = _read(self.path)
            found += finished if key == self._key else []
        for path in sorted(self._folder.glob(f"{self._task}-{self._key[:16]}-*.jsonl")):
            found += filter(None, map(_parsed, path.read_text(encoding="utf-8").splitlines()))
        return {
            response["id"]: response for response in found if hashes.get(response["id"]) == response["prompt_sha256"]
        }

    def is_finished(self) -> bool:
        """Whether all responses are stored, by this key."""
        return self.path.is_file() and _read(self.path)[1] == self._key

    def add(self, responses: Iterable[Response], *, rank: int) -> None:
        """Store responses."""
        path = self._folder / f"{self._task}-{self._key[:16]}-{rank}.jsonl"
        append_whole(path, "".join(json.dumps(response) + "\n" for response in responses))

    def finish(self, responses: Sequence[Response]) -> None:
        """Write all responses, in order, and delete the lines."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        # The union of all keys: examples of one task may have different facts.
        columns: dict[str, None] = {}
        for response in responses:
            columns |= dict.fromkeys(response)
        table = pa.table({name: [response.get(name) for response in responses] for name in columns})
        with whole_file(self.path) as draft:
            pq.write_table(table.replace_schema_metadata({_KEY: self._key.encode()}), draft)
        for path in self._folder.glob(f"{self._task}-*.jsonl"):
            path.unlink()
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()


def read_responses(folder: Path, task: str) -> list[Response]:
    """Records of a finished task.

    Raises:
        DataError: They are missing or cannot be read.
    """
    path = folder / f"{task}.parquet"
    if not path.is_file():
        raise DataError(f"{path} does not exist: evaluate {task} again, its responses were moved or deleted")
    return _read(path)[0]


def _parsed(line: str) -> Response | None:
    """A response; None if the process was killed while it wrote the line, so that the example is asked again."""
    try:
        return parse_json(line)
    except ValueError:
        return None


def _read(path: Path) -> tuple[list[Response], str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete it and evaluate again") from error
    metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
    return table.to_pylist(), metadata.get(_KEY, b"").decode()
