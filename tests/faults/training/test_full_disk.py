"""A disk that fills up while a run trains: a small real one, mounted for the test."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from meap.checkpoints import CheckpointStore
from meap.errors import CheckpointError, MeapError
from meap.export.weights import write_tensors
from meap.places.whole import append_whole, whole_folder
from tests.train.conftest import losses
from tests.train.outputs import at_pass

pytestmark = [pytest.mark.fault(2), pytest.mark.timeout(300)]

RUN = ("train.max_duration=14ba", "train.microbatch_size=8")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False, timeout=30).returncode:
        pytest.skip("a disk of two megabytes needs root and leave to mount; in a container, --privileged")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


def fill(disk: Path) -> Path:
    """All but what a run needs for its records."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as handle:
        while True:
            try:
                handle.write(bytes(1 << 14))
            except OSError:
                break
        handle.truncate(handle.tell() - (1 << 15))
    return filler


@pytest.mark.skipif(not shutil.which("g++"), reason="torch's own compiler needs g++ on a CPU")
def test_no_room_for_compiled_layers_is_told_with_the_remedy(
    small_disk, config_file, tmp_path, warm_python, quiet_environment, project_root
):
    fill(small_disk)
    config = config_file(tmp_path / "run", *RUN, "train.compile=true")
    ended = subprocess.run(
        [warm_python, project_root / "recipes/meap_1b.py", config],
        env=quiet_environment | {"TORCHINDUCTOR_CACHE_DIR": str(small_disk / "compiled")},
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert re.search(
        r"error: rank 0 could not compile the layers at step 1 \(.*No space left on device\): .*"
        r"TORCHINDUCTOR_CACHE_DIR .*train\.compile=false\. There is no checkpoint",
        ended.stderr,
    ), ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 6])
def test_a_disk_that_is_full_is_an_error_with_both_sizes_and_with_room_the_run_continues(
    train, small_disk, tmp_path, step
):
    whole = train(tmp_path / "whole", *RUN)
    to_disk = (*RUN, f"checkpoint.folder={small_disk}/run", "checkpoint.keep=2")
    with at_pass(step - 1, lambda _: fill(small_disk)), pytest.raises(CheckpointError) as failed:
        train(tmp_path / "run", *to_disk)
    name = f"ba{step // 4 * 4 + 4}"
    told = re.search(
        rf"checkpoint {name}\.pt could not be written to {small_disk}/run: no space left for "
        rf"{small_disk}/run/\.saving \((?P<needed>[\d,]+) bytes needed, (?P<free>[\d,]+) bytes free on its disk\)",
        str(failed.value),
    )
    assert told, failed.value
    assert int(told["free"].replace(",", "")) < int(told["needed"].replace(",", ""))
    assert "Free space or choose another checkpoint.folder, then run the same command again" in str(failed.value)
    store = CheckpointStore(f"{small_disk}/run")
    assert store.steps() == list(range(step // 4 * 4, 0, -4))
    assert {path.name for path in (small_disk / "run").glob("*") if path.is_file()} == {
        f"ba{saved}.{kind}" for saved in store.steps() for kind in ("pt", "json")
    }

    # Still full: said before the first step, and nothing is lost.
    with pytest.raises(Exception, match=r"(No space left|B free, but the run needs)"):
        train(tmp_path / "run", *to_disk)
    (small_disk / "filler").unlink()
    assert train(tmp_path / "run", *to_disk) == whole


@pytest.mark.slow
@pytest.mark.parametrize("ends_soon", [False, True])
def test_parts_that_a_full_disk_has_no_room_for_end_all_ranks_and_with_room_the_run_continues(
    start, whole, small_disk, tmp_path, ends_soon
):
    """A run that ends just after a checkpoint that failed has its last one begun before it knows."""
    subprocess.run(["mount", "-o", "remount,size=604k", str(small_disk)], check=True, timeout=30)
    sharded = ("train.sharding=full", "checkpoint.state_dict=sharded")
    to_disk = (*sharded, f"checkpoint.folder={small_disk}/run", "checkpoint.keep=2", "run.name=whole2")
    run = start(tmp_path / "run", 2, *to_disk, *(["train.max_duration=7ba"] if ends_soon else []))
    assert run.wait() == [1, 1], run.printed
    assert "Traceback" not in run.printed
    assert re.search(
        rf"error: checkpoint ba6 could not be written to {small_disk}/run: no space left for "
        rf"{small_disk}/run/\.saving/ba6 \([\d,]+ bytes needed, [\d,]+ bytes free on its disk\): .* "
        r"Free space or choose another checkpoint\.folder",
        run.printed,
    ), run.printed
    assert CheckpointStore(f"{small_disk}/run").steps() == [3]
    assert not (small_disk / "run/.saving").exists()

    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True, timeout=30)
    again = start(tmp_path / "run", 2, *to_disk)
    assert again.wait() == [0, 0], again.printed
    if not ends_soon:
        assert losses(tmp_path / "run") == pytest.approx(losses(whole[2].run_dir), abs=1e-5)


def test_weights_that_a_full_disk_has_no_room_for_are_one_error_and_nothing_is_left(small_disk):
    fill(small_disk)
    content = {"weight": torch.zeros(1 << 20)}
    told = rf"no space left for {small_disk}/\.hf\.partial \(4,194,304 bytes needed, [\d,]+ bytes free on its disk\)"
    with pytest.raises(MeapError, match=told), whole_folder(small_disk / "hf") as draft:
        write_tensors(content, draft / "model.safetensors")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


@pytest.mark.parametrize("room", [0, 1 << 12])
def test_lines_that_a_full_disk_has_no_room_for_are_not_half_there(small_disk, room):
    path, lines = small_disk / "metrics.jsonl", '{"step": 1}\n' * 1000
    append_whole(path, '{"step": 0}\n')
    path.write_bytes(path.read_bytes() + b'{"st')
    with fill(small_disk).open("ab", buffering=0) as filler:
        with contextlib.suppress(OSError):
            while filler.write(bytes(1 << 12)):
                pass
        filler.truncate(filler.tell() - room)
    with pytest.raises(OSError, match=r"No space left.*metrics\.jsonl"):
        append_whole(path, lines)
    assert path.read_text() == '{"step": 0}\n'
    (small_disk / "filler").unlink()
    append_whole(path, lines)
    assert path.read_text() == '{"step": 0}\n' + lines


@pytest.mark.slow
@pytest.mark.parametrize(("interval", "what"), [(4, "checkpoints/.saving"), (14, "(metrics.jsonl|tensorboard)")])
def test_a_run_all_of_whose_folder_is_on_a_disk_that_fills_up_continues_with_room(
    train, small_disk, tmp_path, interval, what
):
    """To the last byte, at the first checkpoint or between two, with metrics, log, TensorBoard and cache."""
    settings = (*RUN, f"checkpoint.interval={interval}ba")
    whole, run_dir = train(tmp_path / "whole", *settings), small_disk / "run"

    def fill_all(_: object) -> None:
        with fill(small_disk).open("ab", buffering=0) as handle, contextlib.suppress(OSError):
            while handle.write(bytes(1 << 12)):
                pass

    full = rf"no space left for {run_dir}/{what} \(([\d,]+ bytes needed, )?\d+ bytes free on its disk\): free space"
    with at_pass(3, fill_all), pytest.raises(MeapError, match=full):
        train(run_dir, *settings)
    assert not CheckpointStore(str(run_dir / "checkpoints")).steps()
    assert not list((run_dir / "checkpoints").glob("*.pt"))
    (small_disk / "filler").unlink()
    assert train(run_dir, *settings) == whole
