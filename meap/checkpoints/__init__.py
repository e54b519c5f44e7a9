"""What a checkpoint is on disk and in a store, for whoever writes, finds or reads one; nothing here knows a model.

    <folder>/ba120.pt            all state in one file, or
    <folder>/ba120/              a folder of parts, one or more per rank
    <folder>/ba120.json          the record: written last, so that a checkpoint without it does not count

record    what belongs to a checkpoint, with sizes and hashes        store    a local folder or a URL full of them
"""

from meap.extras import require_packages

require_packages("meap.checkpoints", "fsspec", "xxhash", extra="train")

from meap.checkpoints.record import CheckpointFile, CheckpointRecord, describe_file, matches  # noqa: E402
from meap.checkpoints.store import CheckpointStore, DamagedError, checkpoint_name, full_disk_errors  # noqa: E402

__all__ = [
    "CheckpointFile",
    "CheckpointRecord",
    "CheckpointStore",
    "DamagedError",
    "checkpoint_name",
    "describe_file",
    "full_disk_errors",
    "matches",
]
