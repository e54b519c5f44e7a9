"""Shards -> samples -> masked batches.

- `open_dataset` opens prepared data for a training loop of one's own.
- `open_shards` reads the manifests of a split and refuses what does not fit the configuration, or each other.
- `open_heldout` does so with the rows kept from training, where there are any.
- `open_tokenizer` gives the tokenizer that belongs to the shards.
- `build_mask_rule` says what is masked, for the dataset or for the training process.
- `build_loader` makes a torch DataLoader over `StreamingMaskedDataset`, `build_sft_loader` over `StreamingSFTDataset`.
- `build_heldout_loader` reads held-out rows of either kind, each once on any number of ranks.
- `read_prompts` takes prompts from them.
- `open_heldout_rows` reads them by number, for evaluations.
"""

from meap.extras import require_packages

require_packages("meap.data", "filelock", "streaming", "torch", extra="train")

from meap.data.by_number import open_heldout_rows  # noqa: E402
from meap.data.dataset import StreamingMaskedDataset  # noqa: E402
from meap.data.heldout import build_heldout_loader  # noqa: E402
from meap.data.loader import RowLoader, build_loader, build_streams, shared_memory_bytes  # noqa: E402
from meap.data.mixture import describe_epoch, plan_epoch  # noqa: E402
from meap.data.opening import open_dataset  # noqa: E402
from meap.data.prompts import Prompt, read_prompts  # noqa: E402
from meap.data.rule import build_mask_rule  # noqa: E402
from meap.data.sft import (  # noqa: E402
    StreamingSFTDataset,
    build_sft_loader,
    collate_rows,
    longest_segment,
    require_room_for_copies,
)
from meap.data.shards import Shards, open_heldout, open_shards, open_tokenizer  # noqa: E402

__all__ = [
    "Prompt",
    "RowLoader",
    "Shards",
    "StreamingMaskedDataset",
    "StreamingSFTDataset",
    "build_heldout_loader",
    "build_loader",
    "build_mask_rule",
    "build_sft_loader",
    "build_streams",
    "collate_rows",
    "describe_epoch",
    "longest_segment",
    "open_dataset",
    "open_heldout",
    "open_heldout_rows",
    "open_shards",
    "open_tokenizer",
    "plan_epoch",
    "read_prompts",
    "require_room_for_copies",
    "shared_memory_bytes",
]
