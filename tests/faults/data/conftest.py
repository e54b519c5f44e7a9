"""Data sets to damage, and readers of them in this process; a file system that is full, where this machine lets us."""

import gc
import multiprocessing
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from meap.back_off import BackOff
from meap.config import DataConfig
from meap.data import StreamingMaskedDataset, build_loader, open_shards
from meap.data.pinned import stream
from meap.errors import DataError

ROWS, SEQ_LEN = 96, 16
KEYS = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session", params=["zstd", None], ids=["zstd", "raw"])
def whole(request, tmp_path_factory, write_shards) -> Path:
    """A data set that nothing happens to."""
    return write_shards(tmp_path_factory.mktemp("whole"), rows=ROWS, validation_rows=8, compression=request.param)


@pytest.fixture(scope="session")
def zipped(tmp_path_factory, write_shards) -> Path:
    return write_shards(tmp_path_factory.mktemp("zipped"), rows=ROWS, validation_rows=0)


@pytest.fixture(scope="session")
def expected_rows(zipped, tmp_path_factory, release_caches) -> np.ndarray:
    """Inputs of every row, by number; the same in every data set of these tests, which have one seed."""
    dataset = open_loader(zipped, tmp_path_factory.mktemp("expected")).dataset
    rows = np.stack([dataset[row]["input_ids"].numpy() for row in range(ROWS)])
    release_caches()
    return rows


@pytest.fixture(autouse=True)
def hurry(monkeypatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(stream, "_BACK_OFF", BackOff(attempts=1, first_wait=0.01))


@pytest.fixture(scope="session")
def open_data() -> Callable:
    return open_loader


def open_loader(remote: Path | str, cache: Path, *, workers: int = 0, attempts: int = 1, **changed):
    data = DataConfig(
        remote=str(remote),
        seq_len=SEQ_LEN,
        num_canonical_nodes=4,
        num_workers=workers,
        download_retry=attempts - 1,
        **{"download_patience": 0.0, **changed},
    )
    shards = open_shards(data, "train")
    return build_loader(
        data, shards, rule=None, seed=17, global_batch_size=8, world_size=1, cache_dir=cache, shuffle=True
    )


@pytest.fixture(scope="session")
def open_only_copy() -> Callable[[Path], StreamingMaskedDataset]:
    """Read where the shards are, without a cache."""

    def open_it(folder: Path) -> StreamingMaskedDataset:
        return StreamingMaskedDataset(
            rule=None,
            local=str(folder),
            split="train",
            batch_size=8,
            num_canonical_nodes=4,
            validate_hash="xxh3_64",
            download_retry=1,
            download_patience=0,
        )

    return open_it


@pytest.fixture(scope="session")
def epoch_of() -> Callable[..., dict[int, np.ndarray]]:
    """Inputs by row, of an epoch of a loader."""

    def read(loader) -> dict[int, np.ndarray]:
        return {
            int(row): inputs.numpy().copy()
            for batch in loader
            for row, inputs in zip(batch["sample_id"], batch["input_ids"], strict=True)
        }

    return read


@pytest.fixture
def failure_of(release_caches) -> Callable[[Callable[[], object]], str]:
    """What a run says that fails; it has ended then, with its workers, as the process of a run would."""

    def fail(run: Callable[[], object]) -> str:
        with pytest.raises(DataError) as failed:
            run()
        message = str(failed.value)
        del failed
        gc.collect()
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        release_caches()
        return message

    return fail


@pytest.fixture(scope="session")
def assert_rows(expected_rows) -> Callable[[dict[int, np.ndarray]], None]:
    """Every row is there, with what it should hold."""

    def check(found: dict[int, np.ndarray]) -> None:
        assert sorted(found) == list(range(ROWS))
        np.testing.assert_array_equal(np.stack([found[row] for row in range(ROWS)]), expected_rows)

    return check


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """Mount a file system of a size; the same call again changes its size."""
    disk = tmp_path / "disk"

    def mount(size: str) -> Path:
        if disk.exists():
            subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
            return disk
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], capture_output=True, check=False
        )
        if mounted.returncode:
            disk.rmdir()
            pytest.skip(f"a small file system cannot be mounted here (root can): {mounted.stderr.decode().strip()}")
        return disk

    yield mount
    if disk.exists():
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def s3_data(zipped, bucket, s3_faults, monkeypatch) -> str:
    """The data set in a bucket, read through `s3_faults`."""
    for path in zipped.rglob("*"):
        if path.is_file():
            bucket.upload_file(str(path), f"mds/{path.relative_to(zipped)}")
    # Each library repeats requests by itself; here what this project does is to be seen.
    for name, value in (KEYS | {"AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    for name in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, s3_faults.url)
    return "s3://corpus/mds"
