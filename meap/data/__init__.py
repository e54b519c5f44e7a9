"""Shards -> samples -> masked batches.

- `open_dataset` opens prepared data for a training loop of one's own.
- `open_shards` reads the manifests of a split and refuses what does not fit the configuration, or each other.
- `open_tokenizer` gives the tokenizer that belongs to the shards.
- `build_mask_rule` says what is masked, for the dataset or for the training process.
- `build_loader` makes a torch DataLoader over `StreamingMaskedDataset`, `build_sft_loader` over `StreamingSFTDataset`.
"""

from meap.extras import require_packages

require_packages("meap.data", "filelock", "fsspec", "streaming", "torch", extra="train")

from meap.data.dataset import StreamingMaskedDataset  # noqa: E402
from meap.data.loader import build_loader, build_streams  # noqa: E402
from meap.data.opening import open_dataset  # noqa: E402
from meap.data.rule import build_mask_rule  # noqa: E402
from meap.data.sft import StreamingSFTDataset, build_sft_loader, collate_rows, longest_segment  # noqa: E402
from meap.data.shards import Shards, open_shards, open_tokenizer  # noqa: E402

__all__ = [
    "Shards",
    "StreamingMaskedDataset",
    "StreamingSFTDataset",
    "build_loader",
    "build_mask_rule",
    "build_sft_loader",
    "build_streams",
    "collate_rows",
    "longest_segment",
    "open_dataset",
    "open_shards",
    "open_tokenizer",
]
