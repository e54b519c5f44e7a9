"""Rows of whole conversations -> fine-tuning samples: each conversation, and beside it a copy with masked answers.

The paper (section 4.2) puts a sample and its masked copy into one sequence; the official code trains on them as two
rows. Both are the same row here, [original | copy | original | ...]; they differ in attention and positions only:

    layout    segments                            positions
    concat    original and copy are one, so that  run on from the original into its copy
              the copy attends to the original
    separate  two                                 begin again with the copy

What is scored, by `loss`:

    answer+masked   every answer token of the original, and the masked tokens of the copy
    masked          the masked tokens of the copy; of answers too short to be masked, every token of the original

How scored tokens weigh in the loss of a batch, by `weighting`; a view is an original or a copy:

    tokens   all alike: the loss is their mean over the batch (the paper's sum)
    rows     each by 1 / scored tokens of its view: the loss is the mean over the batch's views, in which anything is
             scored, of the mean over the view's scored tokens

The official code takes the mean of each device's micro-batch, and the mean of these. With one row per device, a row
being a view there, that is `rows`; with more it lies between the two and depends on the devices. Either choice here
depends on the rows of the global batch alone. At a ratio of 0 the two differ in this only: by `rows`, conversations
weigh the same, by `tokens`, long answers weigh more.

Masked stands for chosen here: what the rule makes of a chosen token (the mask token, a random one, or itself) changes
what stands in the copy, not what is scored.

The ratio is that of each long answer of the copy; ends of turns are no words, and never masked (`meap.answers`). Masks
are drawn for the address (seed, epoch, row * seq_len + place of the answer), so that they change from epoch to epoch
and depend on nothing else; at a ratio of 0 there are no copies. Which
conversations share a row was decided by data preparation once and for all: a row is a sample, and order, elasticity and
resumption are those of pre-training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from meap.answers import LONG, SCORED, Flags, long_answers
from meap.config import DataConfig, SftConfig
from meap.data.dataset import StreamingMaskedDataset
from meap.data.loader import build_loader
from meap.data.shards import Shards
from meap.errors import ConfigError
from meap.masking import MaskRule
from meap.schema import (
    ANSWER_COLUMN,
    CHOSEN_COLUMN,
    COPIED,
    COPIED_COLUMN,
    IGNORE_INDEX,
    LENGTHS_COLUMN,
    TOKENS_COLUMN,
    SftBatch,
)

__all__ = [
    "StreamingSFTDataset",
    "build_sft_loader",
    "collate_rows",
    "expand_row",
    "longest_segment",
    "require_room_for_copies",
]


class StreamingSFTDataset(StreamingMaskedDataset):
    """Fine-tuning rows, expanded and masked as they are read.

    A batch is what `collate_rows` makes of samples: torch's own collation refuses ``segment_lengths``, lists of
    different lengths. Conversations of a row must not see each other. This project's model keeps them apart by
    ``segment_lengths``, models of transformers by ``position_ids``, which begin again with each segment; they leave the
    other columns unread. With `labels` of ``shifted`` the label at a position is the token that follows, with
    ``transformers`` the token at that position; rows have T positions in both.

    Where `weighting` is ``rows``, the loss of a batch is ``(losses * batch["weights"]).sum() /
    sum(batch["num_views"])``, over the views of all devices and of all parts of a step.

    A loop of one's own, with `model` a causal language model of transformers::

        import torch.nn.functional as F
        from torch.utils.data import DataLoader
        from meap.data import collate_rows, open_dataset

        dataset = open_dataset(remote=remote, local=local, labels="shifted", batch_size=8, ratio=0.10)
        for batch in DataLoader(dataset, batch_size=8, num_workers=2, collate_fn=collate_rows):
            logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())  # -100 is not scored
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    The same by the model's own loss::

        from torch.utils.data import DataLoader
        from meap.data import collate_rows, open_dataset

        dataset = open_dataset(remote=remote, local=local, labels="transformers", batch_size=8, ratio=0.10)
        for batch in DataLoader(dataset, batch_size=8, num_workers=2, collate_fn=collate_rows):
            columns = {name: batch[name] for name in ("input_ids", "labels", "position_ids")}
            model(**columns).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    Args:
        sft: Layout, loss and weighting.
        seq_len: Positions of a row.
        rule: How copies are masked; None, or a ratio of 0, yields originals only (evaluation, the NTP control).
        streaming_arguments: See `StreamingMaskedDataset`; `labels` among them.

    Yields:
        What `expand_row` returns, as tensors, its labels as `labels` says.

    Raises:
        ConfigError: Rows are to be reversed.
    """

    def __init__(self, *, sft: SftConfig, seq_len: int, rule: MaskRule | None, **streaming_arguments: Any) -> None:
        if rule is not None and rule.reversed_ratio:
            raise ConfigError(
                f"masking.reversed_ratio={rule.reversed_ratio}, but conversations are not read right to left: "
                "set it to 0"
            )
        super().__init__(rule=rule, **streaming_arguments)
        self._sft = sft
        self._seq_len = seq_len

    def _compose(self, columns: Mapping[str, NDArray[Any]], sample_ids: NDArray[np.int64]) -> dict[str, Any]:
        rule = self._rule.at(self.epoch) if self._rule is not None else None
        row = expand_row(
            columns,
            int(sample_ids[0]),
            seq_len=self._seq_len,
            sft=self._sft,
            rule=rule if rule is not None and rule.ratio > 0.0 else None,
            epoch=self.epoch,
        )
        if not self._labels_are_shifted:
            # Nothing is lost at the end: no conversation's last position has a target.
            row |= {name: np.roll(row[name], 1) for name in ("labels", "weights") if name in row}
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in row.items()
        }


def expand_row(
    columns: Mapping[str, NDArray[Any]],
    sample_id: int,
    *,
    seq_len: int,
    sft: SftConfig,
    rule: MaskRule | None,
    epoch: int,
) -> dict[str, Any]:
    """One row of a batch, from a stored row; pure.

    Args:
        columns: What `meap.schema.conversation_columns` names: conversations back to back.
        sample_id: Number of the row in the data set.
        seq_len: Positions of the row, T.
        sft: Layout, loss and weighting.
        rule: How copies are masked; None for no copies.
        epoch: Epoch number, from 0.

    Returns:
        `input_ids`, `labels`, `position_ids`, each (T,) int64, `sample_id` () int64, and, as plain Python,
        `segment_lengths`, `num_targets` and `num_maskable` (`meap.schema.SftBatch`). Where views weigh the same, also
        `weights`, (T,) float32, and `num_views` (`meap.schema.WeightedSftBatch`); where the rule replaces tokens by
        random ones or keeps them, `chosen`, (T,) bool.
    """
    input_ids_T, position_ids_T = np.zeros(seq_len, np.int64), np.zeros(seq_len, np.int64)
    labels_T, chosen_T = np.full(seq_len, IGNORE_INDEX, np.int64), np.zeros(seq_len, bool)
    segment_lengths: list[int] = []
    view_lengths: list[int] = []
    num_maskable = position = 0

    def place(tokens: NDArray[np.int64], is_scored: NDArray[np.bool_], clean: NDArray[np.int64], first: int) -> None:
        nonlocal position
        end = position + len(tokens)
        input_ids_T[position:end] = tokens
        position_ids_T[position:end] = np.arange(first, first + len(tokens))
        # Shifted within the conversation: its last position has no target, also where its copy follows.
        labels_T[position : end - 1] = np.where(is_scored[1:], clean[1:], IGNORE_INDEX)
        position = end
        view_lengths.append(len(tokens))

    tokens = columns[TOKENS_COLUMN].astype(np.int64)
    flags = columns[ANSWER_COLUMN]
    borders = pairwise([0, *np.cumsum(columns[LENGTHS_COLUMN]).tolist()])
    least = sft.min_answer_tokens or 0
    for (start, end), is_copied in zip(borders, columns[COPIED_COLUMN].tolist(), strict=True):
        original, is_scored = tokens[start:end], (flags[start:end] & SCORED) != 0
        answers = long_answers(flags[start:end], least) if is_copied and rule is not None else []
        if sft.loss == "masked":
            for first, stop in answers:
                is_scored[first:stop] = False
        place(original, is_scored, original, 0)
        segment_lengths.append(len(original))
        if rule is None or not answers:
            continue
        in_scope_BT = _words_of(answers, flags[start:end])
        num_maskable += int(in_scope_BT.sum())
        # The address of an answer is its place in the row.
        addresses_B = sample_id * seq_len + start + np.array([first for first, _ in answers])
        originals_BT = np.tile(original, (len(answers), 1))
        chosen_BT = rule.choose(
            addresses_B, num_tokens=len(original), epoch=epoch, input_ids_BT=originals_BT, in_scope_BT=in_scope_BT
        )
        copies_BT, is_chosen = rule.replace(originals_BT, chosen_BT, addresses_B, epoch=epoch), chosen_BT.any(0)
        copy = np.where(is_chosen, copies_BT[chosen_BT.argmax(0), np.arange(len(original))], original)
        chosen_T[position : position + len(copy)] = is_chosen
        place(copy, is_chosen, original, len(original) if sft.layout == "concat" else 0)
        if sft.layout == "concat":
            segment_lengths[-1] += len(copy)
        else:
            segment_lengths.append(len(copy))
    row = {
        "input_ids": input_ids_T,
        "labels": labels_T,
        "sample_id": np.array(sample_id, np.int64),
        "position_ids": position_ids_T,
        "segment_lengths": segment_lengths,
        "num_targets": int((labels_T != IGNORE_INDEX).sum()),
        "num_maskable": num_maskable,
    }
    if rule is not None and not rule.shows_choice:
        row[CHOSEN_COLUMN] = chosen_T
    return row | (_weigh_views(labels_T, view_lengths) if sft.weighting == "rows" else {})


def collate_rows(rows: Sequence[dict[str, Any]]) -> SftBatch:
    """Stack the tensors of rows into a batch; plain Python values become lists."""
    columns: Any = {name: [row[name] for row in rows] for name in rows[0]}
    return cast(
        "SftBatch", {name: torch.stack(each) if torch.is_tensor(each[0]) else each for name, each in columns.items()}
    )


def longest_segment(shards: Shards, sft: SftConfig, *, ratio: float) -> int:
    """Positions of the longest possible segment, which the model's context must hold."""
    max_length = max(int(stream.manifest.config["max_length"]) for stream in shards.streams)
    return 2 * max_length if sft.layout == "concat" and ratio > 0.0 else max_length


def require_room_for_copies(shards: Shards, *, ratio: float) -> None:
    """Raise if nothing would be masked: a run that is called MEAP would train as its control does.

    Args:
        shards: Of conversations.
        ratio: The largest `masking.ratio` of the run.

    Raises:
        ConfigError: The rows have no room for copies, or there are none.
    """
    if ratio and not any(stream.manifest.config["copies"] for stream in shards.streams):
        raise ConfigError(
            f"masking.ratio={ratio}, but {shards.origin} was prepared with copies=false, so that nothing would be "
            "masked: set masking.ratio=0 for an NTP control, or prepare the data with copies"
        )
    counted = [stream.manifest.counts for stream in shards.streams]
    if ratio and all(counts and not counts.get(COPIED) for counts in counted):
        raise ConfigError(
            f"masking.ratio={ratio}, but no conversation of {shards.origin} has a masked copy, since their answers are "
            "too short: set masking.ratio=0 for an NTP control, or prepare the data with a lower min_answer_tokens"
        )


def build_sft_loader(
    data: DataConfig,
    shards: Shards,
    sft: SftConfig,
    *,
    rule: MaskRule | None,
    seed: int,
    global_batch_size: int,
    world_size: int,
    cache_dir: Path,
    shuffle: bool,
) -> DataLoader[Any]:
    """A loader of this rank's share of each global batch; arguments and errors are those of `build_loader`.

    Raises:
        ConfigError: Also where `sft.min_answer_tokens` asks for copies that the rows have no room for.
    """
    prepared = max(stream.manifest.config["min_answer_tokens"] for stream in shards.streams)
    if sft.min_answer_tokens is not None and sft.min_answer_tokens < prepared:
        raise ConfigError(
            f"sft.min_answer_tokens={sft.min_answer_tokens}, but the rows of {shards.origin} have room for copies of "
            f"answers of more than {prepared} tokens only: leave it unset, or prepare the data with a lower one"
        )
    return build_loader(
        data,
        shards,
        rule=rule,
        seed=seed,
        global_batch_size=global_batch_size,
        world_size=world_size,
        cache_dir=cache_dir,
        shuffle=shuffle,
        make_dataset=partial(StreamingSFTDataset, sft=sft, seq_len=shards.seq_len),
        collate=collate_rows,
    )


def _weigh_views(labels_T: NDArray[np.int64], view_lengths: Sequence[int]) -> dict[str, Any]:
    """The columns by which each view of a row weighs 1 in all."""
    weights_T = (labels_T != IGNORE_INDEX).astype(np.float32)
    views = np.split(weights_T, np.cumsum(view_lengths))[:-1]
    for view in views:
        np.divide(view, view.sum(), out=view, where=view > 0)
    return {"weights": weights_T, "num_views": sum(bool(view.any()) for view in views)}


def _words_of(answers: Sequence[tuple[int, int]], flags: Flags) -> NDArray[np.bool_]:
    """Where the words of each answer are, (answers, T)."""
    in_scope = np.zeros((len(answers), len(flags)), bool)
    for number, (first, stop) in enumerate(answers):
        in_scope[number, first:stop] = (flags[first:stop] & LONG) != 0
    return in_scope
