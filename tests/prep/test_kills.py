"""SIGKILL at any moment loses nothing: the same command completes to the same bytes; until then nobody reads a part."""

import json
import os
import random
import signal
import threading
from pathlib import Path

import pytest

from meap.config import DataConfig
from meap.data import StreamingMaskedDataset, open_shards
from meap.errors import DataError, IncompleteError

pytestmark = [pytest.mark.slow, pytest.mark.fault(1)]

_NOT_COMPLETE = (
    r"holds no finished 'train' split \(no train/index.json\): run dataprep/c4_to_mds.py .* same preparation"
)
_LOCAL_KILLS, _S3_KILLS, _WORKER_KILLS = 14, 5, 1


@pytest.fixture
def arguments(prepare, tmp_path, tokenizer_dir, make_texts, write_lines) -> tuple[str, ...]:
    """What to prepare; it is there as `expected`, made without interruption."""
    for number in range(3):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(100, seed=number))
    given = ("source=in/*.json.gz", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "shard_size=8kb", "tasks=3")
    given += ("heldout_ratio=0.05",)
    prepare(*given, "remote=expected")
    return given


def assert_not_complete(remote: str | Path) -> None:
    with pytest.raises(IncompleteError, match=_NOT_COMPLETE):
        open_shards(DataConfig(remote=str(remote), seq_len=31), "train")
    if isinstance(remote, Path):
        with pytest.raises(DataError, match="train/index.json is missing: .* run the same preparation command again"):
            StreamingMaskedDataset(rule=None, local=str(remote), split="train", batch_size=1, num_canonical_nodes=1)


@pytest.mark.parametrize("forked_commands", [("kill_at",)], indirect=True)
def test_the_whole_job_killed_in_a_local_folder(forked_commands, arguments, tmp_path, hashes_of, record_property):
    expected = hashes_of(tmp_path / "expected")

    def run(name: str, kill_at: int) -> int:
        (tmp_path / "kill_at").write_text(str(kill_at))
        with forked_commands(*arguments, f"remote={name}", "workers=1"):
            pass
        return forked_commands.status

    assert run("out", 1 << 30) == 0
    num_changes = (tmp_path / "changes").stat().st_size
    assert num_changes > 40
    unread = 0
    for number, kill_at in enumerate(random.Random(1).sample(range(1, num_changes + 1), _LOCAL_KILLS)):
        out = tmp_path / f"out{number}"
        assert run(out.name, kill_at) == -signal.SIGKILL
        if not (out / "train" / "index.json").exists():
            assert_not_complete(out)
            unread += 1
        assert run(out.name, 1 << 30) == 0
        assert hashes_of(out) == expected, kill_at
        assert open_shards(DataConfig(remote=str(out), seq_len=31), "train").rows
    assert unread > _LOCAL_KILLS // 2
    record_property("injected", _LOCAL_KILLS)


@pytest.fixture
def s3_environment(s3_faults, prepare, monkeypatch) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
    endpoints = {"S3_ENDPOINT_URL": s3_faults.url, "AWS_ENDPOINT_URL": s3_faults.url}
    for name, value in (keys | endpoints).items():
        monkeypatch.setenv(name, value)


def test_the_whole_job_killed_while_it_writes_to_s3(
    arguments, s3_environment, forked_commands, s3_faults, bucket, tmp_path, record_property
):
    rng, out = random.Random(2), tmp_path / "expected"
    local = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    local = {name: content for name, content in local.items() if ".prep" not in name}
    counted = threading.Lock()

    def run(name: str, kill_at: int) -> tuple[int, int]:
        """Its exit status, and how many requests that change something it has made."""
        known, changes, group = threading.Event(), 0, [0]

        def rule(method: str, path: str, _: int) -> str | None:
            nonlocal changes
            if method not in {"PUT", "POST", "DELETE"}:
                return None
            with counted:
                changes += 1
                is_last = changes == kill_at
            if is_last and known.wait(60):
                os.killpg(group[0], signal.SIGKILL)
                return rng.choice([None, "cut"])  # arrived, or did not
            return None

        s3_faults.rule = rule
        with forked_commands(*arguments, f"remote=s3://corpus/{name}", "workers=1") as group[0]:
            known.set()
        return forked_commands.status, changes

    status, num_changes = run("mds", 0)
    assert (status, num_changes > 10) == (0, True)
    for number, kill_at in enumerate(rng.sample(range(1, num_changes + 1), _S3_KILLS)):
        assert run(f"mds{number}", kill_at)[0] == -signal.SIGKILL
        stored = {each.key for each in bucket.objects.filter(Prefix=f"mds{number}/")}
        if f"mds{number}/train/index.json" not in stored:
            assert_not_complete(f"s3://corpus/mds{number}")
        assert run(f"mds{number}", 0)[0] == 0
        found = {each.key: each.get()["Body"].read() for each in bucket.objects.filter(Prefix=f"mds{number}/")}
        published = {key.partition("/")[2]: content for key, content in found.items() if ".prep" not in key}
        assert published == local, kill_at
    record_property("injected", _S3_KILLS)


def test_a_store_is_left_as_it_was_when_a_stop_comes_before_its_answer(
    arguments, s3_environment, forked_commands, s3_faults, bucket, record_property
):
    """The first two requests claim the place: only the store knows that they came."""
    asked, seen = threading.Event(), list[str]()
    for number in (1, 2):
        asked.clear()
        seen.clear()

        def rule(method: str, path: str, _: int, *, number: int = number) -> str | None:
            if method not in {"PUT", "DELETE"}:
                return None
            seen.append(path)
            if len(seen) == number:
                asked.set()
            return "mute" if len(seen) == number else None

        s3_faults.rule = rule
        with forked_commands(*arguments, f"remote=s3://corpus/mds{number}", "workers=1") as group:
            assert asked.wait(60)
            os.killpg(group, signal.SIGTERM)
        assert forked_commands.status == os.EX_TEMPFAIL
        assert [each.key for each in bucket.objects.filter(Prefix=f"mds{number}/")] == [], seen
        assert all(path.endswith("claim.json") for path in seen[:number])
    record_property("injected", 2)


def test_a_worker_killed(
    forked_commands, prepare, tmp_path, tokenizer_dir, make_texts, write_lines, hashes_of, wait_until, record_property
):
    """Whenever one has stored a certain number of shards."""
    for number in range(4):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(1500, seed=number))
    given = ("source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=63", "shard_size=16kb", "tasks=4")
    prepare(*given, "remote=expected")
    out, rng = tmp_path / "out", random.Random(3)
    log = tmp_path / "command.log"

    def shards() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.glob("train/shard.*")}

    def at_work() -> list[int]:
        counts = [json.loads(path.read_text()) for path in (out / ".prep/scratch/progress").glob("*.json")]
        return [each["pid"] for each in counts if not each["is_done"]]

    def is_done() -> bool:
        return (out / "train" / "index.json").exists()

    def run(num_new: int) -> bool:
        """Kill a worker when so many shards are new; whether there was one."""
        before = shards()
        with forked_commands(*given, "remote=out", "workers=2"):
            wait_until(lambda: len(shards().items() - before.items()) >= num_new or is_done())
            victims = at_work()
            if victims:
                os.kill(rng.choice(victims), signal.SIGKILL)
        return bool(victims)

    killed = 0
    for _ in range(_WORKER_KILLS):
        has_killed = run(rng.randint(1, 6))
        assert forked_commands.status == (1 if has_killed else 0)
        if has_killed:
            killed += 1
            assert "\nerror: the worker process " in f"\n{log.read_text()}"
            assert_not_complete(out)
    assert killed == _WORKER_KILLS
    with forked_commands(*given, "remote=out", "workers=2"):
        pass
    assert forked_commands.status == 0
    assert hashes_of(out) == hashes_of(tmp_path / "expected")
    record_property("injected", killed)
