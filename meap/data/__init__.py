"""Shards -> samples -> masked batches.

open_shards   reads a split's manifest, refuses what does not fit the configuration
open_tokenizer   the tokenizer that belongs to the shards
build_loader     a torch DataLoader over `StreamingMaskedDataset`
"""

from meap.data.dataset import StreamingMaskedDataset
from meap.data.loader import build_loader
from meap.data.shards import Shards, open_shards, open_tokenizer

__all__ = ["Shards", "StreamingMaskedDataset", "build_loader", "open_shards", "open_tokenizer"]
