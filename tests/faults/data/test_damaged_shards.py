"""Whatever has happened to a file of a data set, no row of it is used: it is had anew, or there is an error."""

import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from meap.errors import DataError, IncompleteError

pytestmark = pytest.mark.fault(4)

_REMEDY = (
    "copy the file again from where the data set was made, or delete it and run the same preparation command again"
)


def shards_of(folder: Path) -> list[Path]:
    return sorted((folder / "train").glob("shard.*"))


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def rows_by_shard(folder: Path) -> list[tuple[int, int]]:
    """First and last row of each."""
    sizes = [shard["samples"] for shard in json.loads((folder / "train" / "index.json").read_text())["shards"]]
    return [(sum(sizes[:number]), sum(sizes[: number + 1]) - 1) for number in range(len(sizes))]


def assert_refused(dataset, folder: Path, what: str) -> None:
    """Every shard is, for any row of it, with file, rows and remedy."""
    for path, (first, last) in zip(shards_of(folder), rows_by_shard(folder), strict=True):
        with pytest.raises(DataError) as refused:
            dataset[(first + last) // 2]
        assert str(refused.value).startswith(f"{path} (rows {first} to {last}) "), refused.value
        assert re.search(what, str(refused.value))
        assert str(refused.value).endswith(f": {_REMEDY}")


def test_a_flipped_byte_in_the_store_is_found(
    whole, tmp_path, open_data, open_only_copy, release_caches, record_property
):
    rng, rounds = random.Random(1), 8
    found = r"its xxh3_64 is [0-9a-f]{16}, not the [0-9a-f]{16} that the index says"
    for number in range(rounds):
        copy = shutil.copytree(whole, tmp_path / f"copy{number}")
        for path in shards_of(copy):
            flip(path, rng)
        assert_refused(open_data(copy, tmp_path / f"cache{number}").dataset, copy, found)
        assert not list((tmp_path / f"cache{number}" / "train").glob("*.mds*")), "nothing stays to be trusted later"
        assert_refused(open_only_copy(copy), copy, found)
        release_caches()
    record_property("injected", 2 * rounds * len(shards_of(whole)))


def test_a_flipped_byte_in_the_cache_is_made_good(
    whole, tmp_path, open_data, assert_rows, epoch_of, release_caches, record_property
):
    rng, rounds = random.Random(2), 8
    epoch_of(open_data(whole, tmp_path))
    cached = sorted((tmp_path / "train").glob("*.mds"))
    assert len(cached) == len(shards_of(whole))
    for number in range(rounds):
        release_caches()
        for path in cached:
            flip(path, rng)
        dataset = open_data(whole, tmp_path, cache_limit="1mb" if number % 2 else None)
        # By number, as evaluations read, and by iteration, as training does.
        assert_rows(
            {row: dataset.dataset[row]["input_ids"].numpy() for row in range(96)}
            if number % 4 < 2
            else epoch_of(dataset)
        )
    record_property("injected", rounds * len(cached))


def test_a_flipped_byte_in_the_cache_is_an_error_where_the_store_has_gone(
    whole, tmp_path, open_data, epoch_of, release_caches
):
    copy = shutil.copytree(whole, tmp_path / "copy")
    epoch_of(open_data(copy, tmp_path / "cache"))
    release_caches()
    (damaged, shard) = sorted((tmp_path / "cache/train").glob("*.mds"))[2], shards_of(copy)[2]
    flip(damaged, random.Random(3))
    shard.unlink()
    dataset = open_data(copy, tmp_path / "cache").dataset
    first, last = rows_by_shard(copy)[2]
    with pytest.raises(DataError, match=rf"{shard.name} \(rows {first} to {last}\) is missing: {_REMEDY}"):
        dataset[first]
    assert not damaged.exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "exchanged"])
def test_a_shard_that_is_not_what_it_was_is_found(whole, tmp_path, open_data, open_only_copy, damage, record_property):
    copy = shutil.copytree(whole, tmp_path / "copy")
    shards = shards_of(copy)
    contents = [path.read_bytes() for path in shards]
    for number, path in enumerate(shards):
        if damage == "missing":
            path.unlink()
        elif damage == "exchanged":
            # A shard of the same size where there is one: raw ones all are but the last.
            path.write_bytes(contents[(number + 1) % len(contents)])
        else:
            path.write_bytes(contents[number][: len(contents[number]) // 2] if damage == "truncated" else b"")
    for path, content in zip(shards, contents, strict=True):
        if damage == "missing":
            path.write_bytes(content)  # put back one after the other below
    loader = open_data(copy, tmp_path / "cache")
    if damage == "missing":
        for path in shards:
            path.unlink()
        names = [path.name for path in shards]
        for name, (first, last) in zip(names, rows_by_shard(copy), strict=True):
            with pytest.raises(DataError, match=rf"/{name} \(rows {first} to {last}\) is missing: {_REMEDY}"):
                loader.dataset[first]
            with pytest.raises(DataError, match=rf"/{name} \(rows {first} to {last}\) is missing: {_REMEDY}"):
                open_only_copy(copy)[first]
    else:
        found = "its xxh3_64 is|it has [0-9]+ bytes, not the [0-9]+ that the index says"
        assert_refused(loader.dataset, copy, found)
        assert_refused(open_only_copy(copy), copy, found)
    record_property("injected", 2 * len(shards))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_an_epoch_ends_in_an_error_not_early_and_not_never(zipped, tmp_path, open_data, epoch_of, damage, workers):
    copy = shutil.copytree(zipped, tmp_path / "copy")
    shard = shards_of(copy)[5]
    if damage == "missing":
        shard.unlink()
    elif damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-7])
    else:
        flip(shard, random.Random(4))
    with pytest.raises(DataError) as refused:
        epoch_of(open_data(copy, tmp_path / "cache", workers=workers))
    assert str(refused.value).startswith(f"{shard} (rows "), "from a worker, too, without its traceback"
    assert str(refused.value).endswith(_REMEDY)
    assert "\n" not in str(refused.value)


def test_an_index_that_is_missing_damaged_or_foreign_is_an_error_at_the_start(
    whole, tmp_path, write_shards, open_data, open_only_copy, release_caches, record_property
):
    copy = shutil.copytree(whole, tmp_path / "copy")
    index = copy / "train" / "index.json"
    good = index.read_bytes()
    other = write_shards(tmp_path / "other", rows=40, validation_rows=0, compression=None, seed=5)
    injected = 0

    def refused(message: str) -> None:
        nonlocal injected
        injected += 2
        release_caches()
        for open_it in (lambda: open_data(copy, tmp_path / "cache"), lambda: open_only_copy(copy)):
            with pytest.raises(DataError, match=message) as error:
                open_it()
            assert "\n" not in str(error.value)

    # An index from an earlier run in the cache takes nobody in.
    open_data(copy, tmp_path / "cache")
    rng = random.Random(6)
    for _ in range(10):
        index.write_bytes(good[: rng.randrange(len(good))])
        refused(rf"{index} cannot be used after 1 attempt: it is no index of shards \(.*\): {_REMEDY}")
    names = "in the index and .* in the manifest"
    index.write_bytes((other / "train" / "index.json").read_bytes())
    with pytest.raises(DataError, match=rf"{index} cannot .* not the one of the manifest .* {names}: {_REMEDY}"):
        open_data(copy, tmp_path / "cache")
    for name in ("../escaped.mds", "/tmp/escaped.mds", "..", ".hidden", "a/b.mds", "", 7):
        entries = json.loads(good)
        entries["shards"][1]["raw_data"]["basename"] = name
        index.write_text(json.dumps(entries))
        refused(rf"it names {re.escape(repr(name))}, which is no file beside it: {_REMEDY}")
    index.unlink()
    with pytest.raises(IncompleteError, match=r"holds no finished 'train' split .* run dataprep/c4_to_mds.py"):
        open_data(copy, tmp_path / "cache")
    with pytest.raises(DataError, match=rf"{index} is missing: {_REMEDY}"):
        open_only_copy(copy)
    index.write_bytes(good)
    (tmp_path / "cache" / "train" / "index.json").write_text("{")
    release_caches()
    assert open_data(copy, tmp_path / "cache").dataset.num_samples == 96
    record_property("injected", injected + 3)


@pytest.mark.slow
def test_a_cache_of_what_the_place_held_before_is_not_taken_for_it(
    write_shards, tmp_path, open_data, epoch_of, release_caches
):
    """Prepared again with another seed: every name and every size is the same."""
    kind = {"rows": 96, "validation_rows": 0, "compression": None}
    place = write_shards(tmp_path / "mds", seed=1, **kind)
    before = epoch_of(open_data(place, tmp_path / "cache"))
    shutil.rmtree(place)
    write_shards(place, seed=2, **kind)
    release_caches()
    after = epoch_of(open_data(place, tmp_path / "cache"))
    release_caches()
    cold = epoch_of(open_data(place, tmp_path / "cold"))
    assert sorted(after) == sorted(cold)
    assert all(np.array_equal(after[row], cold[row]) for row in cold)
    assert not any(np.array_equal(after[row], before[row]) for row in cold)
