"""Rows of conversations written out by hand in every layout and loss, and what holds for all of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from meap.answers import END, LONG, SCORED, answer_spans, long_answers, with_long_answers
from meap.config import DataConfig, SftConfig
from meap.data import build_sft_loader, open_heldout_rows, open_shards
from meap.data.sft import expand_row
from meap.errors import ConfigError, MismatchError
from meap.manifest import CONVERSATIONS
from meap.masking import MaskRule
from meap.schema import IGNORE_INDEX

M, NO = 99, IGNORE_INDEX
WORD, STOP = SCORED | LONG, SCORED | END
RULE = MaskRule(mask_id=M, ratio=0.25, seed=3, mask_last=True)
LAYOUTS, LOSSES = ("concat", "separate"), ("answer+masked", "masked")

# A prompt of two tokens and an answer of three words and its end, with a copy; then a short one without.
ROW = {
    "tokens": np.array([1, 11, 21, 22, 23, 2, 1, 12, 31, 2], np.uint16),
    "answer": np.array([0, 0, WORD, WORD, WORD, STOP, 0, 0, SCORED, STOP], np.uint8),
    "lengths": np.array([6, 4], np.uint32),
    "copied": np.array([1, 0], np.uint8),
}
T = 18


def expand(layout="concat", loss="answer+masked", *, row=ROW, rule=RULE, epoch=0, sample_id=5, seq_len=T):
    return expand_row(row, sample_id, seq_len=seq_len, sft=SftConfig(layout, loss), rule=rule, epoch=epoch)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_written_out_by_hand(layout, loss):
    row = expand(layout, loss)
    (masked,) = np.flatnonzero(row["input_ids"] == M) - 6  # at least one of three words; the copy begins at 6
    assert 2 <= masked <= 4
    assert row["num_maskable"] == 3
    copy = [1, 11, 21, 22, 23, 2]
    copy[masked] = M
    assert row["input_ids"].tolist() == [1, 11, 21, 22, 23, 2, *copy, 1, 12, 31, 2, 0, 0]
    original = [NO, 21, 22, 23, 2, NO] if loss == "answer+masked" else [NO] * 6
    of_copy = [NO] * 6
    of_copy[masked - 1] = [1, 11, 21, 22, 23, 2][masked]
    assert row["labels"].tolist() == [*original, *of_copy, NO, 31, 2, NO, NO, NO]
    again = [6, 7, 8, 9, 10, 11] if layout == "concat" else [0, 1, 2, 3, 4, 5]
    assert row["position_ids"].tolist() == [0, 1, 2, 3, 4, 5, *again, 0, 1, 2, 3, 0, 0]
    assert row["segment_lengths"] == ([12, 4] if layout == "concat" else [6, 6, 4])
    assert row["num_targets"] == (4 if loss == "answer+masked" else 0) + 1 + 2


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_by_rows_an_original_a_copy_and_a_short_conversation_weigh_one_each(layout, loss):
    tokens = expand(layout, loss)
    row = expand_row(ROW, 5, seq_len=T, sft=SftConfig(layout, loss, "rows"), rule=RULE, epoch=0)
    assert row.keys() - tokens.keys() == {"weights", "num_views"}
    for name, expected in tokens.items():
        np.testing.assert_array_equal(row[name], expected)
    original, views = ([0, 0.25, 0.25, 0.25, 0.25, 0], 3) if loss == "answer+masked" else ([0] * 6, 2)
    of_copy = [float(label != NO) for label in row["labels"][6:12]]  # one token is masked
    assert row["weights"].tolist() == [*original, *of_copy, 0, 0.5, 0.5, 0, 0, 0]
    assert (row["num_views"], row["weights"].dtype) == (views, np.float32)


@pytest.mark.parametrize("loss", LOSSES)
def test_without_a_rule_every_row_is_plain_next_token_prediction(loss):
    row = expand(loss=loss, rule=None)
    assert row["input_ids"].tolist() == [1, 11, 21, 22, 23, 2, 1, 12, 31, 2] + [0] * 8
    assert row["labels"].tolist() == [NO, 21, 22, 23, 2, NO, NO, 31, 2] + [NO] * 9
    assert row["segment_lengths"] == [6, 4]


def test_the_end_of_a_turn_is_never_masked_and_the_last_word_of_a_cut_answer_only_if_asked():
    cut = ROW | {"answer": np.array([0, 0, WORD, WORD, WORD, WORD, 0, 0, SCORED, STOP], np.uint8)}
    assert not any(expand(epoch=epoch)["input_ids"][11] == M for epoch in range(60))
    last = [
        bool(expand(row=cut, rule=dataclasses.replace(RULE, mask_last=mask_last), epoch=epoch)["input_ids"][11] == M)
        for mask_last in (False, True)
        for epoch in range(60)
    ]
    assert not any(last[:60])
    assert any(last[60:])


def test_conversations_are_not_reversed(write_conversations, tmp_path):
    remote = write_conversations(tmp_path / "data", seq_len=WIDE)
    data = DataConfig(remote=str(remote), seq_len=WIDE, num_canonical_nodes=1, num_workers=0)
    shards = open_shards(data, "train", kind=CONVERSATIONS)
    rule = dataclasses.replace(RULE, reversed_ratio=0.5, direction_id=100)
    how = {"seed": 1, "global_batch_size": 1, "world_size": 1, "cache_dir": tmp_path / "cache", "shuffle": False}
    with pytest.raises(ConfigError, match="masking.reversed_ratio=0.5, but conversations are not read right to left"):
        build_sft_loader(data, shards, SftConfig(), rule=rule, **how)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_and_kept_tokens_are_scored_as_masked_ones_are(layout, loss):
    """Everything but the inputs of the chosen positions is as with masks alone."""
    more = {"random_share": 0.4, "keep_share": 0.4, "num_ids": 100, "special_ids": (0, 1, 2, M)}
    rule, kinds = dataclasses.replace(RULE, **more), set()
    for sample_id in range(40):
        plain, row = (expand(layout, loss, rule=each, sample_id=sample_id) for each in (RULE, rule))
        is_chosen = plain["input_ids"] == M
        assert is_chosen.sum() == 1
        np.testing.assert_array_equal(row.pop("chosen"), is_chosen)
        np.testing.assert_array_equal(row["input_ids"][~is_chosen], plain["input_ids"][~is_chosen])
        (became,), (was,) = row.pop("input_ids")[is_chosen], plain["labels"][:-1][is_chosen[1:]]
        kinds.add("mask" if became == M else "keep" if became == was else "random")
        assert became not in {0, 1, 2}
        for name, value in row.items():
            np.testing.assert_array_equal(value, plain[name])
    assert kinds == {"mask", "random", "keep"}


@pytest.fixture(scope="module")
def rows(conversation_rows) -> list[dict]:
    return conversation_rows


WIDE = 256


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_prompts_and_padding_are_never_masked_or_scored_and_counts_are_exact(rows, layout, loss):
    for number, stored in enumerate(rows):
        row = expand(layout, loss, row=stored, sample_id=number, seq_len=WIDE)
        used = int((stored["lengths"] * (1 + stored["copied"])).sum())
        assert sum(row["segment_lengths"]) == used
        for name, empty in (("input_ids", 0), ("position_ids", 0), ("labels", NO)):
            assert (row[name][used:] == empty).all()
        place, start = 0, 0
        for length, copied in zip(stored["lengths"].tolist(), stored["copied"].tolist(), strict=True):
            tokens, flags = (stored[name][start : start + length] for name in ("tokens", "answer"))
            answers = long_answers(flags)
            assert copied == bool(answers)
            start += length
            for is_copy in range(1 + copied):
                inputs, labels = (row[name][place : place + length] for name in ("input_ids", "labels"))
                place += length
                masked = inputs == M
                assert masked.sum() == sum(masked[first:stop].sum() for first, stop in answers)
                for first, stop in answers:  # the ratio is that of each answer; its last token is its end
                    assert masked[first:stop].sum() == (max(1, int((stop - 1 - first) * 0.25)) if is_copy else 0)
                assert (flags[masked] == WORD).all()
                np.testing.assert_array_equal(inputs[~masked], tokens[~masked])
                if is_copy:
                    scored = masked
                else:
                    scored = (flags & SCORED) != 0
                    for first, stop in answers if loss == "masked" else []:
                        scored[first:stop] = False
                np.testing.assert_array_equal(labels, [*np.where(scored[1:], tokens[1:].astype(int), NO), NO])
        assert row["num_targets"] == (row["labels"] != NO).sum()


def test_masks_change_with_epoch_seed_and_row_and_with_nothing_else(rows):
    def masks(rule=RULE, epoch=0, shift=0, layout="concat"):
        return np.stack(
            [
                expand(layout, row=row, rule=rule, epoch=epoch, sample_id=number + shift, seq_len=WIDE)["input_ids"]
                == M
                for number, row in enumerate(rows)
            ]
        )

    first = masks()
    np.testing.assert_array_equal(first, masks())
    np.testing.assert_array_equal(first, masks(layout="separate"))
    for other in (masks(epoch=1), masks(rule=dataclasses.replace(RULE, seed=4)), masks(shift=1000)):
        assert other.sum() == first.sum()
        assert (first & other).sum() < 0.6 * first.sum()


@pytest.fixture(scope="module")
def remote(write_conversations, tmp_path_factory) -> Path:
    return write_conversations(tmp_path_factory.mktemp("sft"), seq_len=WIDE)


def load(remote: Path, cache: Path, *, workers: int = 0, world_size: int = 1, sft=None, rule=RULE):
    data = DataConfig(remote=str(remote), seq_len=WIDE, num_canonical_nodes=4, num_workers=workers)
    return build_sft_loader(
        data,
        open_shards(data, "train", kind=CONVERSATIONS),
        sft or SftConfig(),
        rule=rule,
        seed=17,
        global_batch_size=8,
        world_size=world_size,
        cache_dir=cache,
        shuffle=True,
    )


def epochs(loader, count: int) -> list[dict]:
    collected = []
    for _ in range(count):
        batches = list(loader)
        joined = {}
        for name, first in batches[0].items():
            if torch.is_tensor(first):
                joined[name] = torch.cat([batch[name] for batch in batches])
            else:
                joined[name] = [each for batch in batches for each in batch[name]]
        collected.append(joined)
    return collected


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert torch.equal(values, other[name]) if torch.is_tensor(values) else values == other[name]


def test_every_row_comes_once_per_epoch_masked_for_that_epoch(remote, rows, tmp_path):
    both = epochs(load(remote, tmp_path), 2)
    for epoch, samples in enumerate(both):
        assert sorted(samples["sample_id"].tolist()) == list(range(len(rows)))
        for place, number in enumerate(samples["sample_id"].tolist()):
            expected = expand(row=rows[number], sample_id=number, epoch=epoch, seq_len=WIDE)
            for name in ("num_targets", "segment_lengths"):
                assert samples[name][place] == expected[name]
            for name in ("input_ids", "labels", "position_ids"):
                np.testing.assert_array_equal(samples[name][place].numpy(), expected[name])
    assert both[0]["sample_id"].tolist() != both[1]["sample_id"].tolist()


def test_workers_change_nothing(remote, tmp_path):
    for one, other in zip(
        epochs(load(remote, tmp_path / "a"), 2), epochs(load(remote, tmp_path / "b", workers=2), 2), strict=True
    ):
        assert_same(one, other)


def test_a_resumed_epoch_continues_with_the_same_rows_and_masks(remote, tmp_path):
    uninterrupted = epochs(load(remote, tmp_path / "a"), 2)[1]
    loader = load(remote, tmp_path / "b")
    loader.dataset.load_state_dict(
        {"epoch": 1, "sample_in_epoch": 24, "num_canonical_nodes": 4, "shuffle_seed": 17, "initial_physical_nodes": 1}
    )
    (resumed,) = epochs(loader, 1)
    assert_same(resumed, {name: values[24:] for name, values in uninterrupted.items()})


def test_conversations_and_pre_training_rows_are_not_mistaken_for_each_other(remote, write_shards, tmp_path):
    data = DataConfig(remote=str(remote), seq_len=WIDE)
    with pytest.raises(MismatchError, match=r"holds conversations, not rows: recipes/meap_sft.py trains on it"):
        open_shards(data, "train")
    plain = DataConfig(remote=str(write_shards(tmp_path, rows=8)), seq_len=16)
    with pytest.raises(MismatchError, match=r"holds rows, not conversations: recipes/meap_1b.py trains on it"):
        open_shards(plain, "train", kind=CONVERSATIONS)


def test_an_evaluation_on_held_out_conversations_names_its_own_key(write_conversations, tmp_path):
    remote = write_conversations(tmp_path, seq_len=WIDE)
    said = r"^perplexity\.remote: .* holds conversations, whose held-out loss .*: give rows of text, which dataprep/c4"
    with (
        pytest.raises(MismatchError, match=said),
        open_heldout_rows([str(remote)], fingerprint="", key="perplexity.remote"),
    ):
        pass


def test_copies_can_be_asked_of_longer_answers_only_at_run_time(remote, rows, tmp_path):
    def copies(least):
        sft = SftConfig(layout="separate", min_answer_tokens=least)
        row = expand_row(ROW, 5, seq_len=T, sft=sft, rule=RULE, epoch=0)
        return len(row["segment_lengths"]) - 2

    assert [copies(least) for least in (None, 0, 2, 3)] == [1, 1, 1, 0]
    with pytest.raises(ConfigError, match=r"sft.min_answer_tokens=3, but the rows .* more than 4 tokens only"):
        load(remote, tmp_path, sft=SftConfig(min_answer_tokens=3))


def test_a_ratio_of_zero_gives_no_copies(remote, rows, tmp_path):
    (plain,) = epochs(load(remote, tmp_path, rule=dataclasses.replace(RULE, ratio=0.0)), 1)
    for place, number in enumerate(plain["sample_id"].tolist()):
        expected = expand(row=rows[number], sample_id=number, rule=None, seq_len=WIDE)
        np.testing.assert_array_equal(plain["input_ids"][place].numpy(), expected["input_ids"])
        np.testing.assert_array_equal(plain["labels"][place].numpy(), expected["labels"])


def test_each_long_answer_of_a_conversation_has_its_own_ratio_and_draw():
    def words(*lengths: int) -> list[int]:
        return [flag for length in lengths for flag in [0, 0, *[SCORED] * length, STOP]]

    flags = with_long_answers(np.array(words(40, 5, 20, 40), np.uint8), 10)
    row = {
        "tokens": np.arange(1000, 1000 + len(flags)).astype(np.uint16),
        "answer": flags,
        "lengths": np.array([len(flags)], np.uint32),
        "copied": np.array([1], np.uint8),
    }
    masks = [
        expand(row=row, epoch=epoch, seq_len=WIDE)["input_ids"][len(flags) : 2 * len(flags)] == M for epoch in (0, 1)
    ]
    spans = answer_spans(flags)
    assert [[int(each[first:stop].sum()) for first, stop in spans] for each in masks] == [[10, 0, 5, 10]] * 2
    (first, _), *_, (last, _) = spans
    assert (masks[0][first : first + 40] != masks[0][last : last + 40]).any()
    assert (masks[0] != masks[1]).any()
