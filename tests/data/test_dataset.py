"""Properties of the samples: exact masks, clean labels, every row once, the same whatever the workers."""

import gc
import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from meap.config import DataConfig, MaskingConfig
from meap.data import StreamingMaskedDataset, build_loader, build_mask_rule, open_shards
from meap.data.loader import close_loaders
from meap.errors import ConfigError, DataError
from meap.masking import MaskRule

ROWS, SEQ_LEN, BATCH = 96, 16, 8


@pytest.fixture(scope="module")
def remote(tmp_path_factory, write_shards) -> Path:
    return write_shards(tmp_path_factory.mktemp("remote"), rows=ROWS, seq_len=SEQ_LEN)


def load(
    remote: Path | str, cache: Path, *, ratio: float | None = 0.25, workers: int = 0, shuffle: bool = True, **changed
):
    data = DataConfig(remote=str(remote), seq_len=SEQ_LEN, num_canonical_nodes=4, num_workers=workers, **changed)
    shards = open_shards(data, "train")
    return build_loader(
        data,
        shards,
        rule=None if ratio is None else build_mask_rule(MaskingConfig(ratio=ratio), shards.tokenizer, seed=17),
        seed=17,
        global_batch_size=BATCH,
        world_size=1,
        cache_dir=cache,
        shuffle=shuffle,
    )


def epochs(loader, count: int) -> list[dict[str, torch.Tensor]]:
    collected = []
    for _ in range(count):
        batches = list(loader)
        collected.append({key: torch.cat([batch[key] for batch in batches]) for key in batches[0]})
    return collected


@pytest.fixture(scope="module")
def clean_rows(remote, tmp_path_factory) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    (epoch,) = epochs(load(remote, tmp_path_factory.mktemp("clean"), ratio=None, shuffle=False), 1)
    return {
        int(sample): (inputs.numpy(), labels.numpy())
        for sample, inputs, labels in zip(epoch["sample_id"], epoch["input_ids"], epoch["labels"], strict=True)
    }


def test_without_masking_inputs_and_labels_are_the_shifted_row(clean_rows):
    assert sorted(clean_rows) == list(range(ROWS))
    for inputs, labels in clean_rows.values():
        np.testing.assert_array_equal(inputs[1:], labels[:-1])


def test_every_epoch_is_a_permutation_with_clean_labels_and_its_own_exact_masks(
    remote, tmp_path, tokenizer, clean_rows
):
    rule = MaskRule(mask_id=tokenizer.mask_id, ratio=0.25, seed=17)
    first, second = epochs(load(remote, tmp_path), 2)
    for epoch, samples in enumerate((first, second)):
        assert sorted(samples["sample_id"].tolist()) == list(range(ROWS))
        assert ((samples["input_ids"] == tokenizer.mask_id).sum(1) == int(SEQ_LEN * 0.25)).all()
        for sample, inputs, labels in zip(samples["sample_id"], samples["input_ids"], samples["labels"], strict=True):
            clean_inputs, clean_labels = clean_rows[int(sample)]
            np.testing.assert_array_equal(labels.numpy(), clean_labels)
            expected = rule.apply(clean_inputs[None], np.array([int(sample)]), epoch=epoch)
            np.testing.assert_array_equal(inputs.numpy(), expected[0])
    assert first["sample_id"].tolist() != second["sample_id"].tolist()


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_workers_change_nothing(remote, tmp_path, workers):
    alone = epochs(load(remote, tmp_path / "a"), 2)
    shared = epochs(load(remote, tmp_path / "b", workers=workers), 2)
    for one, other in zip(alone, shared, strict=True):
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


def test_a_resumed_epoch_continues_with_the_same_samples_and_masks(remote, tmp_path):
    uninterrupted = epochs(load(remote, tmp_path / "a"), 2)[1]
    loader = load(remote, tmp_path / "b")
    loader.dataset.load_state_dict(
        {"epoch": 1, "sample_in_epoch": 40, "num_canonical_nodes": 4, "shuffle_seed": 17, "initial_physical_nodes": 1}
    )
    (resumed,) = epochs(loader, 1)
    for key, values in uninterrupted.items():
        torch.testing.assert_close(resumed[key], values[40:], rtol=0, atol=0)


RANDOM_LATER = MaskRule(300, 0.3, seed=17, random_share=1.0, num_ids=301, special_ids=(0, 1, 300))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"span_length": 3},
        {"mask_last": True},
        {"protected_ids": (1, 2)},
        {"random_share": 0.5, "keep_share": 0.2, "num_ids": 301, "special_ids": (0, 1, 300)},
        {"reversed_ratio": 0.5, "direction_id": 301},
        {"reversed_ratio": 0.5, "direction_id": 301, "ratio": 0.0},
        {"later": ((1, RANDOM_LATER),), "ratio": 0.0},
        {"random_share": 0.5, "protected_ids": (7, 9), "num_ids": 301, "special_ids": (0, 1, 300)},
    ],
    ids=str,
)
def test_masks_are_those_of_their_address_wherever_reading_begins(remote, tmp_path, tokenizer, clean_rows, changed):
    """They are drawn for many rows at once: neither which, nor a row read in between, may change one."""
    rule = MaskRule(**{"mask_id": tokenizer.mask_id, "ratio": 0.25, "seed": 17} | changed)

    whole = rule

    def check(sample: dict[str, torch.Tensor], *, epoch: int) -> None:
        rule = whole.at(epoch)
        number = int(sample["sample_id"])
        both = (each[None] for each in clean_rows[number])
        inputs, labels = rule.turn(*both, np.array([number]), epoch=epoch)
        np.testing.assert_array_equal(sample["labels"].numpy(), labels[0])
        expected = rule.apply(inputs, np.array([number]), epoch=epoch)[0]
        np.testing.assert_array_equal(sample["input_ids"].numpy(), expected)
        if rule.shows_choice:
            assert "chosen" not in sample
        else:
            chosen = rule.choose(np.array([number]), num_tokens=SEQ_LEN, epoch=epoch, input_ids_BT=inputs)[0]
            np.testing.assert_array_equal(sample["chosen"].numpy(), chosen)

    dataset = StreamingMaskedDataset(
        rule=rule,
        labels="shifted",
        remote=str(remote / "train"),
        local=str(tmp_path),
        batch_size=BATCH,
        num_canonical_nodes=1,
        shuffle=True,
    )
    for start in (0, 5, 37):
        dataset.load_state_dict(
            {
                "epoch": start,
                "sample_in_epoch": start,
                "num_canonical_nodes": 1,
                "shuffle_seed": dataset.shuffle_seed,
                "initial_physical_nodes": 1,
            }
        )
        samples = iter(dataset)
        for place in range(ROWS - start):
            check(next(samples), epoch=start)
            if place % 7 == 0:
                check(dataset[place], epoch=start)
                check(dataset.sample_at(place, epoch=99), epoch=99)


def test_ratio_zero_yields_clean_rows(remote, tmp_path, clean_rows):
    (epoch,) = epochs(load(remote, tmp_path, ratio=0.0), 1)
    for sample, inputs in zip(epoch["sample_id"], epoch["input_ids"], strict=True):
        np.testing.assert_array_equal(inputs.numpy(), clean_rows[int(sample)][0])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, workers cannot be forked")
def test_workers_are_forked_with_every_version_of_python(remote, tmp_path):
    """They know the processes of the other ranks from the one that has met them."""
    assert load(remote, tmp_path, workers=1).multiprocessing_context.get_start_method() == "fork"


def test_rows_can_be_read_by_number(remote, tmp_path, clean_rows):
    dataset = load(remote, tmp_path, ratio=None).dataset
    np.testing.assert_array_equal(dataset[5]["input_ids"].numpy(), clean_rows[5][0])


def test_what_decides_the_order_must_be_set(remote, tmp_path):
    with pytest.raises(ConfigError, match="num_canonical_nodes must be set"):
        StreamingMaskedDataset(rule=None, remote=str(remote), local=str(tmp_path), batch_size=2)


def test_a_batch_that_does_not_divide_is_refused(remote, tmp_path):
    data = DataConfig(remote=str(remote), seq_len=SEQ_LEN)
    with pytest.raises(ConfigError, match=r"train\.global_batch_size=10 does not divide by 4 ranks"):
        build_loader(
            data,
            open_shards(data, "train"),
            rule=None,
            seed=0,
            global_batch_size=10,
            world_size=4,
            cache_dir=tmp_path,
            shuffle=True,
        )


def test_too_few_rows_for_a_batch_are_refused_with_a_batch_that_fits(remote, tmp_path):
    data = DataConfig(remote=str(remote), seq_len=SEQ_LEN)
    remedy = r"fewer than one batch of train\.global_batch_size=112: set train\.global_batch_size=56, or prepare more"
    with pytest.raises(ConfigError, match=rf"the train split of .* has 96 rows, {remedy}"):
        build_loader(
            data,
            open_shards(data, "train"),
            rule=None,
            seed=0,
            global_batch_size=112,
            world_size=1,
            cache_dir=tmp_path,
            shuffle=True,
        )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", ["missing", "flipped"])
def test_a_shard_that_cannot_be_read_ends_in_an_error_not_in_a_short_epoch_or_a_hang(remote, tmp_path, fault, workers):
    broken = shutil.copytree(remote, tmp_path / "broken")
    shard = sorted((broken / "train").glob("*.zstd"))[3]
    if fault == "missing":
        shard.unlink()
    else:
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    found = {"missing": "is missing", "flipped": "cannot be used after 1 attempt: its xxh3_64 is"}[fault]
    expected = rf"/broken/train/{shard.name} \(rows 39 to 51\) {found}.*: copy the file again .*command again$"
    with pytest.raises(DataError, match=expected):
        epochs(load(broken, tmp_path / "cache", workers=workers, download_retry=0), 1)
    if workers:
        return  # the loader kills its workers in the midst of whatever they are writing
    # Nothing of the bad shard stays behind to be trusted later; once the store is whole again, so is the epoch.
    assert not list((tmp_path / "cache/train").glob(f"{shard.name.removesuffix('.zstd')}*"))
    shutil.copyfile(remote / "train" / shard.name, shard)
    (healed,) = epochs(load(broken, tmp_path / "cache", workers=workers), 1)
    assert sorted(healed["sample_id"].tolist()) == list(range(ROWS))


def test_the_data_itself_is_no_cache(remote):
    with pytest.raises(ConfigError, match=r"is data\.remote itself: choose another folder"):
        load(remote, remote)


def test_data_that_streaming_does_not_read_is_refused(remote, tmp_path):
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(remote), "/elsewhere", recursive=True)
    with pytest.raises(ConfigError, match=r"data\.remote=memory://elsewhere/? cannot be streamed: .* s3, .*not memory"):
        load("memory://elsewhere", tmp_path)
    filesystem.rm("/elsewhere", recursive=True)


def test_a_forked_process_ends_no_workers_of_its_parent(remote, tmp_path):
    loader = load(remote, tmp_path, workers=1)
    batches = iter(loader)
    first = next(batches)
    if not (child := os.fork()):
        close_loaders()  # as at its end
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    ids = torch.cat([first["sample_id"], *(batch["sample_id"] for batch in batches)])
    assert sorted(ids.tolist()) == list(range(ROWS))
    loader.close()


def test_workers_end_with_an_iterator_that_a_cycle_holds(remote, tmp_path):
    """As the traceback of an error does: its queues are finalised before it, and could tell workers nothing more."""
    before = multiprocessing.active_children()
    loader = load(remote, tmp_path, workers=2)
    cycle: list[Any] = [loader, iter(loader)]
    next(cycle[1])
    workers = [each for each in multiprocessing.active_children() if each not in before]
    assert len(workers) == 2
    cycle.append(cycle)
    del loader, cycle
    gc.collect()
    assert not [each for each in workers if each.is_alive()]


def test_a_row_that_is_not_there_is_an_index_error(remote, tmp_path):
    with pytest.raises(IndexError):
        load(remote, tmp_path).dataset[ROWS]
