"""A job of fine-tuning data: killed, short of disk, on S3 or with many workers, it writes the same bytes."""

import errno
import gzip
import json
import os
import signal
import time
from contextlib import suppress

import pytest

from meap.errors import DataError


@pytest.fixture(scope="session")
def command_path(project_root):
    return project_root / "dataprep" / "sft_to_mds.py"


@pytest.fixture
def arguments(tmp_path, tokenizer_dir, make_texts):
    """Four files, four tasks, several shards each."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        records = [
            {"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": text}]}
            for text in make_texts(300, seed=number, words=30)
        ]
        content = "".join(json.dumps(record) + "\n" for record in records).encode()
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(content, mtime=0))
    sizes = ("max_length=128", "shard_size=16kb", "heldout_ratio=0.05", "tasks=4", "min_answer_tokens=20")
    return ("source=in", f"tokenizer.name={tokenizer_dir}", *sizes)


@pytest.mark.slow
def test_killed_at_any_point_it_continues_to_the_same_bytes(
    forked_commands, prepare_sft, tmp_path, arguments, hashes_of, wait_until
):
    prepare_sft(*arguments, "remote=expected")
    out = tmp_path / "out"

    def num_files(pattern):
        return len(list(out.glob(pattern)))

    def has_new_shard():
        return any(path.stat().st_mtime_ns > started for path in out.glob("train/shard.*"))

    events = {
        "claimed": (out / ".prep" / "job.json").exists,
        "a shard": has_new_shard,
        "first record": lambda: num_files(".prep/tasks/*.json") >= 1,
        "a further shard": has_new_shard,
        "third record": lambda: num_files(".prep/tasks/*.json") >= 3,
    }
    killed = []
    for name, event in events.items():
        started = time.time_ns()
        with forked_commands(*arguments, "remote=out", "workers=1") as group:
            wait_until(lambda event=event, group=group: event() or not is_running(group))
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        killed += [name] if forked_commands.status == -signal.SIGKILL else []
        assert num_files(".prep/tasks/*.json") == 4 or not num_files("*/index.json"), f"published too early: {name}"
    assert len(killed) >= 2, killed
    with forked_commands(*arguments, "remote=out", "workers=1"):
        pass
    assert forked_commands.status == 0
    assert hashes_of(out) == hashes_of(tmp_path / "expected")


@pytest.mark.slow
def test_output_is_the_same_for_any_number_of_workers(run_command_line, prepare_sft, tmp_path, arguments, hashes_of):
    prepare_sft(*arguments, "remote=one")
    done = run_command_line(*arguments, "remote=three", "workers=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("complete: 1,200 conversations, ")
    assert hashes_of(tmp_path / "one") == hashes_of(tmp_path / "three")


@pytest.mark.slow
def test_from_s3_to_s3_gives_the_shards_of_local_folders(
    prepare_sft, tmp_path, monkeypatch, server, bucket, arguments, capsys
):
    prepare_sft(*arguments)
    for path in (tmp_path / "in").iterdir():
        bucket.upload_file(str(path), f"raw/{path.name}")
    keys = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "S3_ENDPOINT_URL": server, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    remote = (*arguments, "source=s3://corpus/raw", "remote=s3://corpus/mds")
    prepare_sft(*remote)
    stored = {each.key: each.get()["Body"].read() for each in bucket.objects.filter(Prefix="mds/")}
    local = {f"mds/{each.relative_to(tmp_path / 'out')}": each for each in (tmp_path / "out").rglob("*.*")}
    published = {key for key in stored if ".prep" not in key}
    assert published == {key for key, path in local.items() if ".prep" not in key and path.is_file()}
    for key in published:
        assert key.endswith("manifest.json") or stored[key] == local[key].read_bytes(), key
    capsys.readouterr()
    prepare_sft(*remote)
    assert capsys.readouterr().out.startswith("already complete: 1,200 conversations, ")


@pytest.mark.slow
def test_full_disk_names_the_place_and_the_next_command_continues(
    prepare_sft, tmp_path, arguments, monkeypatch, hashes_of
):
    from meap.places import whole

    prepare_sft(*arguments, "remote=expected")
    moved, move = [], whole._move

    def fail_after_some(*values):
        moved.append(values)
        if len(moved) > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        move(*values)

    with monkeypatch.context() as patched:
        patched.setattr(whole, "_move", fail_after_some)
        with pytest.raises(DataError, match=r"no space left for .*out.*: free space and run the same command again"):
            prepare_sft(*arguments)
    assert not list((tmp_path / "out").rglob("index.json"))
    prepare_sft(*arguments)
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "expected")


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
