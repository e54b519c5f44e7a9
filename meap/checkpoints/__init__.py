"""Checkpoints on disk and in a store: writing, finding and reading them.

    <folder>/ba120.pt            all state in one file, or
    <folder>/ba120/              a folder of parts, one or more per rank
    <folder>/ba120.json          the record: written last, so that a checkpoint without it does not count
    <folder>/tokenizer/          the run's tokenizer, of all its checkpoints

A folder is self-contained: it holds everything needed to export a checkpoint, to resume it, or to start from it.

record    what belongs to a checkpoint, with sizes and hashes    store    a folder of checkpoints, local or behind a URL
finding   the newest whole checkpoint

Imported only where content is read, since they import torch:

reading   weights, configuration and tokenizer of a checkpoint      trust    loads tensors and plain values only
"""

from meap.extras import require_packages

require_packages("meap.checkpoints", "torch", "xxhash", extra="train")

from meap.checkpoints.finding import find_checkpoint, require_checkpoint, require_checkpoint_at  # noqa: E402
from meap.checkpoints.record import (  # noqa: E402
    CheckpointFile,
    CheckpointRecord,
    ModelRecord,
    describe_content,
    describe_file,
    matches,
)
from meap.checkpoints.store import (  # noqa: E402
    CheckpointStore,
    DamagedError,
    MissingError,
    checkpoint_name,
    newest_record,
)

__all__ = [
    "CheckpointFile",
    "CheckpointRecord",
    "CheckpointStore",
    "DamagedError",
    "MissingError",
    "ModelRecord",
    "checkpoint_name",
    "describe_content",
    "describe_file",
    "find_checkpoint",
    "matches",
    "newest_record",
    "require_checkpoint",
    "require_checkpoint_at",
]
