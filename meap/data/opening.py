"""A dataset from plain arguments, for training loops that are not this project's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streaming.base.world import World

from meap.config import DataConfig, MaskingConfig, SftConfig, TokenizerConfig
from meap.data.dataset import StreamingMaskedDataset
from meap.data.loader import build_streams
from meap.data.mixture import plan_epoch
from meap.data.rule import build_mask_rule
from meap.data.sft import StreamingSFTDataset
from meap.data.shards import Shards, open_shards, open_tokenizer, read_manifest
from meap.errors import ConfigError
from meap.manifest import CONVERSATIONS
from meap.masking import MaskRule
from meap.schema import TRAIN_SPLIT

__all__ = ["open_dataset"]


def open_dataset(
    *,
    remote: str | Path,
    local: str | Path,
    labels: str,
    batch_size: int,
    ratio: float | None = None,
    masking: MaskingConfig | None = None,
    seed: int = 17,
    split: str = TRAIN_SPLIT,
    shuffle: bool = True,
    num_canonical_nodes: int = DataConfig.num_canonical_nodes,
    sft: SftConfig | None = None,
    **streaming_arguments: Any,
) -> StreamingMaskedDataset:
    """Open a split of a prepared data set, masked as it is read.

    An epoch has as many rows as make whole batches, each at most once.

    Three ways to use it, each with `model`, a causal language model of transformers, and its `optimizer`; those for
    conversations stand with `StreamingSFTDataset`.

    A loop of one's own::

        import torch.nn.functional as F
        from torch.utils.data import DataLoader
        from meap.data import open_dataset

        dataset = open_dataset(remote=remote, local=local, labels="shifted", batch_size=8, ratio=0.15)
        loader = DataLoader(dataset, batch_size=8, num_workers=2)
        for _ in range(3):  # epochs, each with an order and masks of its own
            for batch in loader:
                logits = model(input_ids=batch["input_ids"]).logits
                loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    The Trainer of transformers::

        from torch.utils.data import DataLoader
        from transformers import Trainer, TrainingArguments
        from meap.data import open_dataset

        class StreamingTrainer(Trainer):
            def get_train_dataloader(self):  # the dataset shares rows out among ranks; accelerate would do it again
                return DataLoader(self.train_dataset, batch_size=self.args.per_device_train_batch_size)

        dataset = open_dataset(remote=remote, local=local, labels="transformers", batch_size=8, ratio=0.15)
        arguments = TrainingArguments(
            output_dir,
            num_train_epochs=3,
            per_device_train_batch_size=8,
            lr_scheduler_type="constant",
            report_to="none",
        )
        StreamingTrainer(model, arguments, train_dataset=dataset, optimizers=(optimizer, None)).train()

    Composer's Trainer::

        from composer import Trainer
        from composer.models import HuggingFaceModel
        from torch.utils.data import DataLoader
        from meap.data import open_dataset

        dataset = open_dataset(remote=remote, local=local, labels="transformers", batch_size=8, ratio=0.15)
        loader = DataLoader(dataset, batch_size=8)
        Trainer(
            model=HuggingFaceModel(model), train_dataloader=loader, optimizers=optimizer, max_duration="3ep"
        ).fit()

    Args:
        remote: Folder or URL that data preparation wrote, above its splits.
        local: Folder for shards in use, of this process and its ranks alone.
        labels: ``shifted`` for a loss of one's own, ``transformers`` for ``model(**batch)``.
        batch_size: Rows of a batch of one device, as the DataLoader is given.
        ratio: Share of input tokens that are masked, in [0, 1), 0.15 unless given; 0 for clean rows, as in evaluation.
        masking: In its place, what a yaml says in `masking` for site=dataset: spans, random tokens, reversed rows,
            other ratios from later epochs on. Reversed rows begin with the id after the tokenizer's last, for which
            `model` needs a row.
        seed: Seed of the masks and the order of rows.
        split: Name of the split.
        shuffle: Whether rows are shuffled, anew in each epoch.
        num_canonical_nodes: Fixes the order whatever the number of nodes; a multiple of the nodes that read.
        sft: Layout, loss and weighting, where the rows are conversations; their defaults where unset.
        streaming_arguments: Everything else that `StreamingMaskedDataset` takes.

    Returns:
        A `StreamingMaskedDataset`; where the rows are conversations, a `StreamingSFTDataset`.

    Raises:
        ConfigError: An argument is out of range, the masks would follow from the step, or the split has fewer rows than
            a batch.
        DataError: There is no finished data set, or it cannot be read.
    """
    remote = str(remote)
    manifest = read_manifest(remote.rstrip("/"), split, key="remote")
    data = DataConfig(remote=remote, seq_len=manifest.seq_len, num_canonical_nodes=num_canonical_nodes)
    shards = open_shards(data, split, kind=None)
    epoch = plan_epoch(data, shards, batch_size * World.detect().num_ranks)
    if masking is None:
        masking = MaskingConfig(ratio=MaskingConfig.ratio if ratio is None else ratio)
    elif ratio is not None:
        raise ConfigError(f"ratio={ratio} and masking.ratio={masking.ratio}: give one of them")
    arguments = {
        "rule": _rule_of(masking, shards, seed=seed),
        "labels": labels,
        "streams": build_streams(data, shards, Path(local), counts=epoch.counts),
        "batch_size": batch_size,
        "num_canonical_nodes": epoch.canonical_nodes,
        "shuffle": shuffle,
        "shuffle_seed": seed,
        **streaming_arguments,
    }
    if manifest.kind == CONVERSATIONS:
        return StreamingSFTDataset(sft=sft or SftConfig(), seq_len=manifest.seq_len, **arguments)
    return StreamingMaskedDataset(**arguments)


def _rule_of(masking: MaskingConfig, shards: Shards, *, seed: int) -> MaskRule:
    if masking.site != "dataset":  # as schedules of steps and the official preset need
        raise ConfigError(
            f"masking.site={masking.site} is for the training process: a dataset knows no steps; leave it at dataset"
        )
    if not masking.needs_tokenizer:
        return build_mask_rule(masking, shards.tokenizer, seed=seed)
    tokenizer = open_tokenizer(TokenizerConfig(), shards)
    if masking.reversed_ratio:
        tokenizer = tokenizer.with_direction()
    return build_mask_rule(masking, tokenizer.record, seed=seed, special_ids=tokenizer.special_ids)
