"""What a checkpoint is on disk and in a store, for whoever writes, finds or reads one.

    <folder>/ba120.pt            all state in one file, or
    <folder>/ba120/              a folder of parts, one or more per rank
    <folder>/ba120.json          the record: written last, so that a checkpoint without it does not count
    <folder>/tokenizer/          the run's tokenizer, of all its checkpoints

A folder is self-contained: what it takes to export a checkpoint, to continue it, or to start from it, is in it.

record    what belongs to a checkpoint, with sizes and hashes        store    a local folder or a URL full of them
finding   the one that is meant where none is named

Those who need its content import it, and torch with it:

reading   weights, configuration and tokenizer of a checkpoint      trust    loads tensors and plain values only
"""

from meap.extras import require_packages

require_packages("meap.checkpoints", "torch", "xxhash", extra="train")

from meap.checkpoints.finding import find_checkpoint, require_checkpoint  # noqa: E402
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
    checkpoint_name,
    newest_record,
)

__all__ = [
    "CheckpointFile",
    "CheckpointRecord",
    "CheckpointStore",
    "DamagedError",
    "ModelRecord",
    "checkpoint_name",
    "describe_content",
    "describe_file",
    "find_checkpoint",
    "matches",
    "newest_record",
    "require_checkpoint",
]
