"""Several streams in one dataset: proportions, ids and masks of repeated rows, their caches, and what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from meap.config import DataConfig, MaskingConfig, StreamConfig
from meap.data import StreamingMaskedDataset, build_loader, build_mask_rule, open_shards
from meap.errors import ConfigError, DataError, IncompleteError, MismatchError
from meap.schema import MANIFEST_NAME

SEQ_LEN, BATCH = 16, 8
ROWS = {"arxiv": 64, "code": 20, "web": 40}
TOTAL = sum(ROWS.values())
EPOCH = TOTAL // BATCH * BATCH


@pytest.fixture(scope="module")
def remotes(tmp_path_factory, write_shards) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("streams")
    return {
        name: write_shards(root / name, rows=rows, seq_len=SEQ_LEN, validation_rows=16 * (name != "code"), seed=seed)
        for seed, (name, rows) in enumerate(ROWS.items())
    }


def section(remotes: dict[str, Path], proportions: dict[str, float] | None = None, **changed) -> DataConfig:
    streams = {
        name: StreamConfig(str(remote), proportions[name] if proportions else None) for name, remote in remotes.items()
    }
    return DataConfig(**{"streams": streams, "seq_len": SEQ_LEN, "num_canonical_nodes": 4, "num_workers": 0} | changed)


def load(data: DataConfig, cache: Path, *, ratio: float = 0.25, shuffle: bool = True, split: str = "train"):
    shards = open_shards(data, split)
    return build_loader(
        data,
        shards,
        rule=build_mask_rule(MaskingConfig(ratio=ratio), shards.tokenizer, seed=17),
        seed=17,
        global_batch_size=BATCH,
        world_size=1,
        cache_dir=cache,
        shuffle=shuffle,
    )


def epoch_of(loader) -> dict[str, torch.Tensor]:
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def rows_per_stream(sample_ids: torch.Tensor) -> list[int]:
    """Rows are numbered through the streams by name."""
    return np.histogram(sample_ids % TOTAL, bins=np.cumsum([0, *ROWS.values()]))[0].tolist()


def test_without_proportions_every_row_of_every_stream_comes_once(remotes, tmp_path):
    data = section(remotes, num_canonical_nodes=1)
    shards = open_shards(data, "train")
    loader = build_loader(
        data, shards, rule=None, seed=1, global_batch_size=4, world_size=1, cache_dir=tmp_path, shuffle=True
    )
    samples = epoch_of(loader)
    assert sorted(samples["sample_id"].tolist()) == list(range(TOTAL))
    # The same rows as each stream gives alone, although shards of the same name lie in all of them.
    alone = [
        StreamingMaskedDataset(rule=None, local=str(remotes[name] / "train"), batch_size=1, num_canonical_nodes=1)
        for name in sorted(ROWS)
    ]
    expected = [dataset[row] for dataset in alone for row in range(len(dataset))]
    for sample, inputs in zip(samples["sample_id"], samples["input_ids"], strict=True):
        torch.testing.assert_close(inputs, expected[sample]["input_ids"], rtol=0, atol=0)
    assert {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mds")} == {
        f"{name}/train" for name in ROWS
    }


def test_the_order_of_lines_in_a_yaml_does_not_matter(remotes):
    backwards = dict(reversed(remotes.items()))
    assert open_shards(section(backwards), "train") == open_shards(section(remotes), "train")


@pytest.mark.parametrize(
    ("proportions", "counts"),
    [
        ({"arxiv": 1, "code": 1, "web": 1}, [40, 40, 40]),
        ({"arxiv": 0.1, "code": 0.5, "web": 0.4}, [12, 60, 48]),
        ({"arxiv": 1, "code": 1, "web": 5}, [17, 17, 86]),
    ],
)
def test_proportions_hold_in_every_epoch_to_the_row(remotes, tmp_path, proportions, counts):
    loader = load(section(remotes, proportions), tmp_path)
    for _ in range(2):
        sample_ids = epoch_of(loader)["sample_id"]
        assert sum(counts) == len(sample_ids) == len(set(sample_ids.tolist())) == EPOCH
        assert rows_per_stream(sample_ids) == counts
        # Nothing comes a third time before everything of its stream has come twice.
        _, times = np.unique(sample_ids % TOTAL, return_counts=True)
        assert times.max() <= max(-(-count // rows) for count, rows in zip(counts, ROWS.values(), strict=True))


def test_a_repeated_row_has_an_id_and_a_mask_of_its_own(remotes, tmp_path):
    data = section(remotes, {"arxiv": 1, "code": 2, "web": 1})
    masked, clean = epoch_of(load(data, tmp_path / "a")), epoch_of(load(data, tmp_path / "b", ratio=0.0))
    assert masked["sample_id"].tolist() == clean["sample_id"].tolist()
    assert (masked["sample_id"] >= TOTAL).sum() == 40, "60 rows of code, which has 20"
    # What masks in the training process sees ids and clean rows, and makes the same of them.
    rule = build_mask_rule(MaskingConfig(ratio=0.25), open_shards(data, "train").tokenizer, seed=17)
    applied = rule.apply(clean["input_ids"], clean["sample_id"], epoch=0)
    torch.testing.assert_close(applied, masked["input_ids"], rtol=0, atol=0)

    of_row: dict[int, list[int]] = {}
    for place, sample in enumerate(masked["sample_id"].tolist()):
        of_row.setdefault(sample % TOTAL, []).append(place)
    repeated = [places for places in of_row.values() if len(places) > 1]
    assert repeated
    for places in repeated:
        assert len({tuple(masked["labels"][place].tolist()) for place in places}) == 1
        assert len({tuple(masked["input_ids"][place].tolist()) for place in places}) == len(places)


@pytest.mark.parametrize(("method", "is_same"), [("balanced", False), ("fixed", True)])
def test_rows_left_out_change_from_epoch_to_epoch_unless_fixed(remotes, tmp_path, method, is_same):
    loader = load(section(remotes, {"arxiv": 1, "code": 1, "web": 1}, sampling_method=method), tmp_path)
    first, second = (set(epoch_of(loader)["sample_id"].tolist()) for _ in range(2))
    assert (first == second) == is_same


@pytest.mark.parametrize("algorithm", ["py1e", "py1br", "py1s", "py2s"])
def test_every_shuffle_is_a_permutation_of_the_same_epoch(remotes, tmp_path, algorithm):
    proportions = {"arxiv": 1, "code": 1, "web": 1}
    shuffled = epoch_of(load(section(remotes, proportions, shuffle_algo=algorithm), tmp_path / "a"))["sample_id"]
    plain = epoch_of(load(section(remotes, proportions, shuffle_algo="py1e"), tmp_path / "b"))["sample_id"]
    assert sorted(shuffled.tolist()) == sorted(plain.tolist())
    assert (shuffled.tolist() == plain.tolist()) == (algorithm == "py1e")


def test_stratified_batches_are_all_composed_alike(remotes, tmp_path):
    loader = load(section(remotes, {"arxiv": 2, "code": 1, "web": 1}, batching_method="stratified"), tmp_path)
    batches = [batch["sample_id"] for batch in loader]
    assert {tuple(rows_per_stream(batch)) for batch in batches} == {(4, 2, 2)}
    assert len({sample for batch in batches for sample in batch.tolist()}) == len(batches) * BATCH == 112


def test_held_out_rows_are_read_as_they_are_from_the_streams_that_have_any(remotes, tmp_path):
    data = section(remotes, {"arxiv": 9, "code": 1, "web": 1}, batching_method="stratified")
    heldout = open_shards(data, "validation")
    assert [(stream.name, stream.proportion) for stream in heldout.streams] == [("arxiv", None), ("web", None)]
    sample_ids = epoch_of(load(data, tmp_path, shuffle=False, split="validation"))["sample_id"]
    assert sorted(sample_ids.tolist()) == list(range(32))
    # Any beginning holds all of them alike, for evaluations that stop early.
    assert sorted(heldout.mixed_order().tolist()) == list(range(32))
    assert (heldout.mixed_order()[:8] < 16).sum() == 4


def test_without_any_held_out_rows_the_remedy_is_named(remotes):
    with pytest.raises(
        IncompleteError, match=r"none of data\.streams \(code\) has a 'validation' split: .*heldout_ratio"
    ):
        open_shards(section({"code": remotes["code"]}), "validation")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_stream_that_is_not_there_is_named(remotes, tmp_path, split):
    with pytest.raises(IncompleteError, match=r"data\.streams\.gone\.remote=.*nowhere is not there: run dataprep/"):
        open_shards(section(remotes | {"gone": tmp_path / "nowhere"}), split)


def test_streams_of_different_tokenizers_are_refused_by_name(remotes, tmp_path, write_shards):
    other = write_shards(tmp_path / "other", rows=8, seq_len=SEQ_LEN)
    path = other / "train" / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    manifest["tokenizer"] |= {"fingerprint": "0" * 64, "name": "another"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(MismatchError, match=r"data\.streams\.arxiv .* and data\.streams\.other .*different tokenizers"):
        open_shards(section(remotes | {"other": other}), "train")


def test_streams_of_another_row_length_or_kind_are_refused_by_name(remotes, tmp_path, write_shards):
    longer = write_shards(tmp_path / "longer", rows=8, seq_len=32)
    with pytest.raises(MismatchError, match=r"the rows of .*longer/train were packed to 32 tokens"):
        open_shards(section(remotes | {"longer": longer}), "train")
    chats = write_shards(tmp_path / "chats", rows=8, seq_len=SEQ_LEN)
    path = chats / "train" / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "conversations"}))
    with pytest.raises(MismatchError, match=r"data\.streams\.chats\.remote=.* holds conversations, not rows"):
        open_shards(section(remotes | {"chats": chats}), "train")


@pytest.mark.parametrize("checked", [True, False])
def test_each_stream_is_checked_against_its_own_hashes(remotes, tmp_path, write_shards, checked):
    broken = write_shards(tmp_path / "broken", rows=32, seq_len=SEQ_LEN, compression=None, seed=9)
    shard = sorted((broken / "train").glob("*.mds"))[2]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    data = section(remotes | {"broken": broken}, validate_hash=checked, download_retry=0)
    if not checked:
        assert len(epoch_of(load(data, tmp_path / "cache"))["sample_id"]) == 152
        return
    with pytest.raises(DataError, match=r"/broken/train/shard.00002.mds \(rows .* cannot be used .* its xxh3_64"):
        epoch_of(load(data, tmp_path / "cache"))


def test_a_cache_that_is_a_stream_is_refused(remotes):
    with pytest.raises(ConfigError, match=r"the cache .*/arxiv is data\.streams\.arxiv\.remote itself"):
        load(section(remotes), remotes["code"].parent)


def largest_refused(data: DataConfig, cache: Path) -> int:
    with pytest.raises(ConfigError, match=r"data\.cache_limit of 1,024 bytes is too small") as refused:
        load(dataclasses.replace(data, cache_limit="1kb"), cache)
    return int(str(refused.value).split("take ")[1].split(" bytes")[0].replace(",", "")) - 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:predownload < batch_size:UserWarning")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [0, 2])
def test_the_smallest_cache_that_is_allowed_serves_whole_epochs(remotes, tmp_path, workers):
    """With a predownload of 1, 2 workers may need (1 + 1) x 2 + 4 + 3 shards at once, of the 17 there are."""
    data = section(remotes, num_workers=workers, predownload=1, keep_zip=True)
    limit = largest_refused(data, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"is too small: .* lower data\.predownload or data\.num_workers"):
        load(dataclasses.replace(data, cache_limit=str(limit)), tmp_path / "b")
    loader = load(dataclasses.replace(data, cache_limit=f"{limit + 1}b"), tmp_path / "c")
    for _ in range(2):
        assert len(epoch_of(loader)["sample_id"]) == EPOCH
        kept = [path for path in (tmp_path / "c").rglob("*.*") if path.suffix != ".in_use"]  # that names our command
        assert sum(path.stat().st_size for path in kept) <= limit + 1


def test_a_cache_limit_never_deletes_the_only_copy(remotes):
    with pytest.raises(ConfigError, match="which is their only copy"):
        StreamingMaskedDataset(
            rule=None, local=str(remotes["web"] / "train"), batch_size=1, num_canonical_nodes=1, cache_limit="1gb"
        )


@pytest.mark.parametrize(
    ("proportions", "changed", "message"),
    [
        ({"arxiv": 1, "code": 0.001, "web": 1}, {}, r"code\.proportion=0\.001 is too small: an epoch of 120 rows"),
        (
            {"arxiv": 9, "code": 0.1, "web": 9},
            {"batching_method": "stratified"},
            r"code\.proportion=0\.1 is too small: a stratified batch of 8 rows .* raise train\.global_batch_size",
        ),
        (
            {"arxiv": 6, "code": 1, "web": 1},
            {"batching_method": "stratified", "shuffle_block_size": 4},
            r"data\.shuffle_block_size=4 leaves nothing to a stream .* raise it to 8 at least",
        ),
    ],
)
def test_mixtures_that_do_not_come_out_are_refused(remotes, tmp_path, proportions, changed, message):
    with pytest.raises(ConfigError, match=message):
        load(section(remotes, proportions, **changed), tmp_path)
