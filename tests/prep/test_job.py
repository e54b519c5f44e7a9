"""A job is done once, whatever happens on the way: same bytes for any number of workers, after any kill."""

import errno
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from meap.errors import DataError, IncompleteError, MismatchError
from meap.places.locks import lock_file


@pytest.fixture
def arguments(tmp_path, tokenizer_dir, make_texts, write_lines) -> tuple[str, ...]:
    """Four files, four tasks, several shards each."""
    for number in range(4):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(150, seed=number))
    return (
        "source=in",
        f"tokenizer.name={tokenizer_dir}",
        "seq_len=31",
        "shard_size=8kb",
        "heldout_ratio=0.05",
        "tasks=4",
    )


@pytest.mark.slow
def test_output_is_the_same_for_any_number_of_workers(run_command_line, prepare, tmp_path, arguments, hashes_of):
    prepare(*arguments, "remote=one")
    expected = hashes_of(tmp_path / "one")
    assert len([name for name in expected if name.startswith("train/shard.")]) > 8
    for workers in (2, 3):
        done = run_command_line(*arguments, f"remote={workers}", f"workers={workers}")
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("c4_to_mds: loading datatrove ...\n")
        assert hashes_of(tmp_path / str(workers)) == expected


def test_tasks_change_the_cut_but_not_the_order(prepare, tmp_path, arguments, read_rows):
    prepare(*arguments, "remote=four")
    prepare(*arguments[:-1], "remote=one")
    one, four = (read_rows(tmp_path / name / "train").ravel().tolist() for name in ("one", "four"))
    assert one[: len(four) // 8] == four[: len(four) // 8]
    names = [shard["raw_data"]["basename"] for shard in _index(tmp_path / "four")]
    assert names == sorted(names)
    assert {name.split(".")[1] for name in names} == {"00000", "00001", "00002", "00003"}
    assert {path.name for path in (tmp_path / "four" / "train").iterdir()} == {
        "documents.json",
        "index.json",
        "manifest.json",
        *(shard["zip_data"]["basename"] for shard in _index(tmp_path / "four")),
    }


def test_a_complete_job_is_not_done_again(prepare, tmp_path, arguments, hashes_of, capsys):
    prepare(*arguments, "remote=out")
    first = capsys.readouterr().out
    assert first.startswith("complete: 600 documents, ")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "train").iterdir()}
    prepare(*arguments, "remote=out", "workers=2", "progress_interval=1")
    again = capsys.readouterr().out
    assert again.startswith("already complete: 600 documents, ")
    assert again.strip().split("; ") == [f"already {first.split('; ')[0]}", first.split("; ")[1]]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "train").iterdir()} == before
    assert not (tmp_path / "out" / ".prep" / "scratch").exists()


@pytest.fixture
def read_only(tmp_path) -> Iterator[Callable[[str], None]]:
    """Mount a folder in tmp_path read-only over itself until the test ends."""
    mounted = list[Path]()

    def mount(name: str) -> None:
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "--bind", str(path), str(path)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"a folder cannot be mounted here (root can): {done.stderr.decode().strip()}")
        mounted.append(path)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_complete_job_on_a_read_only_disk_is_complete(prepare, tmp_path, arguments, read_only, hashes_of, capsys):
    prepare(*arguments, "remote=out")
    first, expected = capsys.readouterr().out, hashes_of(tmp_path / "out")
    read_only("out")
    prepare(*arguments, "remote=out")
    assert capsys.readouterr().out.startswith(f"already {first.split('; ')[0]}")
    assert hashes_of(tmp_path / "out") == expected
    with pytest.raises(DataError, match=r"^out.* cannot be used \(Read-only file system\): choose a folder"):
        prepare(*arguments, "remote=out", "seq_len=63")


def test_a_place_that_cannot_take_a_data_set_is_one_clear_line(prepare, tmp_path, arguments, read_only):
    with pytest.raises(DataError, match=r"^n{300} cannot be .* \(File name too long\): choose a shorter one"):
        prepare(*arguments, f"remote={'n' * 300}")
    read_only("disk")
    with pytest.raises(DataError, match=r"^disk/out cannot be used \(Read-only file system\): choose a folder that c"):
        prepare(*arguments, "remote=disk/out")


def test_a_complete_job_that_another_process_holds_is_complete(prepare, tmp_path, arguments, capsys):
    prepare(*arguments, "remote=out")
    handle = lock_file(tmp_path / "out/.prep/lock")
    assert handle is not None
    try:
        prepare(*arguments, "remote=out")
    finally:
        os.close(handle)
    assert capsys.readouterr().out.count("already complete: 600 documents, ") == 1


def test_another_data_set_in_the_folder_is_refused_key_by_key(prepare, tmp_path, arguments, tokenizer_dir, write_lines):
    prepare(*arguments, "remote=out")
    start = r"out holds another data set; "
    end = r": choose another remote, or delete the folder"
    with pytest.raises(MismatchError, match=rf"{start}seq_len=31 there, seq_len=63 here{end}"):
        prepare(*arguments, "remote=out", "seq_len=63")
    with pytest.raises(MismatchError, match=rf"{start}tasks=4 there, tasks=2 here{end}"):
        prepare(*arguments, "remote=out", "tasks=2")
    with pytest.raises(MismatchError, match=rf"{start}seed=0 there, seed=1 here; shard_size=8kb there, shard_size=9kb"):
        prepare(*arguments, "remote=out", "seed=1", "shard_size=9kb")
    definition = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer_config.json").write_text((tokenizer_dir / "tokenizer_config.json").read_text())
    definition["model"]["merges"].pop()
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(MismatchError, match=rf"{start}tokenizer.name=.*; the tokenizers give different ids{end}"):
        prepare(*arguments, "remote=out", "tokenizer.name=other")
    write_lines(tmp_path / "in" / "2.json.gz", ["another text"])
    with pytest.raises(MismatchError, match=rf"{start}4 input files there, 4 here, of which in/2.json.gz is the first"):
        prepare(*arguments, "remote=out")
    (tmp_path / "in" / "2.json.gz").unlink()
    with pytest.raises(MismatchError, match=r"tasks=4 there, tasks=3 here; 4 input files there, 3 here"):
        prepare(*arguments, "remote=out", "tasks=3")


def test_a_folder_of_something_else_is_refused(prepare, tmp_path, arguments):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(
        MismatchError,
        match=r"out is not empty and was not begun by this program \(it holds thesis.tex\): choose another remote$",
    ):
        prepare(*arguments, "remote=out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    with pytest.raises(DataError, match=r"out/thesis.tex is a file: choose a folder or a URL"):
        prepare(*arguments, "remote=out/thesis.tex")


def test_damaged_job_record_is_refused(prepare, tmp_path, arguments):
    prepare(*arguments, "remote=out")
    (tmp_path / "out" / ".prep" / "job.json").write_text("{")
    with pytest.raises(MismatchError, match=r"out/.prep/job.json is not readable .*: choose another remote, or delete"):
        prepare(*arguments, "remote=out")


def test_completion_markers_without_a_record_do_not_count(prepare, tmp_path, arguments, hashes_of):
    prepare(*arguments, "remote=out")
    expected = hashes_of(tmp_path / "out")
    (tmp_path / "out" / ".prep" / "tasks" / "00002.json").unlink()
    assert len(list((tmp_path / "out" / ".prep" / "completions").iterdir())) == 4
    prepare(*arguments, "remote=out")
    assert hashes_of(tmp_path / "out") == expected


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_record_whose_shards_are_not_in_place_does_not_count(prepare, tmp_path, arguments, hashes_of, damage):
    prepare(*arguments, "remote=out")
    expected = hashes_of(tmp_path / "out")
    shard = tmp_path / "out" / "train" / "shard.00001.00000.mds.zstd"
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-1])
    prepare(*arguments, "remote=out")
    assert hashes_of(tmp_path / "out") == expected


def test_nothing_is_published_before_every_task_is_done(prepare, tmp_path, arguments, write_lines, monkeypatch):
    from meap.prep import preparation

    published = []
    real_publish = preparation.publish
    monkeypatch.setattr(preparation, "publish", lambda job: published.append(job) or real_publish(job))
    write_lines(tmp_path / "in" / "3.json.gz", ["one", b"bad"])
    with pytest.raises(DataError, match=r"in/3.json.gz:2: not valid JSON"):
        prepare(*arguments, "remote=out", "max_bad_lines=0")
    assert not published
    assert len(list((tmp_path / "out" / ".prep" / "tasks").iterdir())) == 3
    assert not list((tmp_path / "out").rglob("index.json"))
    assert not list((tmp_path / "out").rglob("manifest.json"))

    # and publish itself looks: here a shard goes away under its feet
    def lose_a_shard(job):
        (tmp_path / "out" / "train" / "shard.00000.00000.mds.zstd").unlink()
        real_publish(job)

    monkeypatch.setattr(preparation, "publish", lose_a_shard)
    with pytest.raises(IncompleteError, match=r"out: task 0 and 0 more of 4 are not complete .*: run the same command"):
        prepare(*arguments, "remote=out", "max_bad_lines=1")
    assert not list((tmp_path / "out").rglob("index.json"))
    monkeypatch.setattr(preparation, "publish", real_publish)
    prepare(*arguments, "remote=out", "max_bad_lines=1")
    assert (tmp_path / "out" / "train" / "index.json").is_file()


def test_the_index_of_train_is_the_last_file(prepare, tmp_path, arguments, monkeypatch):
    from meap.places import whole

    order = []
    real_move = whole._move
    monkeypatch.setattr(
        whole, "_move", lambda file, path, durable: order.append(path) or real_move(file, path, durable)
    )
    prepare(*arguments, "remote=out")
    names = [str(path.relative_to(tmp_path / "out")) for path in order if ".prep" not in path.parts]
    assert names[-7:] == [
        "tokenizer/tokenizer_config.json",
        "validation/documents.json",
        "validation/manifest.json",
        "train/documents.json",
        "train/manifest.json",
        "validation/index.json",
        "train/index.json",
    ]
    for number in range(4):
        record = order.index(tmp_path / "out" / ".prep" / "tasks" / f"{number:05d}.json")
        assert all(order.index(path) < record for path in order if path.name.startswith(f"shard.{number:05d}."))


def test_no_row_at_all_is_an_error(prepare, tmp_path, tokenizer_dir, write_lines):
    write_lines(tmp_path / "in.jsonl", ["short"])
    with pytest.raises(
        DataError, match=r"not a single row: \d+ tokens in 1 tasks, and a row takes 4097: choose a smaller"
    ):
        prepare("source=in.jsonl", "remote=out", f"tokenizer.name={tokenizer_dir}", "heldout_ratio=0")
    assert not (tmp_path / "out" / "train").exists()
    with pytest.raises(DataError, match=r"\(some of it is held back by max_tokens=1, heldout_ratio=0\.01\)"):
        prepare("source=in.jsonl", "remote=less", f"tokenizer.name={tokenizer_dir}", "seq_len=2", "max_tokens=1")
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(DataError, match=r"the first of 1 bad records is none.jsonl:1: the file is empty: fetch it"):
        prepare("source=none.jsonl", "remote=none", f"tokenizer.name={tokenizer_dir}")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["meap.places.whole._move", "pathlib.Path.write_bytes"])
def test_full_disk_names_the_place_and_the_remedy(prepare, tmp_path, arguments, monkeypatch, hashes_of, place):
    prepare(*arguments, "remote=expected")
    written = []

    def fail_after_some(*values, **_):
        written.append(values)
        if len(written) > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*values)

    module, _, name = place.rpartition(".")
    owner = __import__("pkgutil").resolve_name(module)
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, fail_after_some)
    with pytest.raises(
        DataError, match=r"no space left for .*out.* \([\d,]+ bytes needed, [\d,]+ bytes free on its disk\): free space"
    ):
        prepare(*arguments, "remote=out")
    assert not list((tmp_path / "out").rglob("index.json"))
    assert not (tmp_path / "out" / ".prep" / "scratch").exists()
    monkeypatch.setattr(owner, name, real)
    prepare(*arguments, "remote=out")
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "expected")


@pytest.mark.fault(2)
def test_a_disk_that_is_really_full(prepare, tmp_path, arguments, hashes_of, small_disk, record_property):
    prepare(*arguments, "remote=expected")
    sizes = (64, 96, 128)
    for size in sizes:
        disk = small_disk(size)
        with pytest.raises(DataError, match=r"no space left for .*disk/out.* [\d,]+ bytes free on its disk\): free"):
            prepare(*arguments, "remote=disk/out")
        assert not list((disk / "out").rglob("index.json"))
    disk = small_disk(16 << 10)
    prepare(*arguments, "remote=disk/out")
    assert hashes_of(disk / "out") == hashes_of(tmp_path / "expected")
    record_property("injected", len(sizes))


def test_a_fault_of_ours_is_one_error_with_the_log(prepare, tmp_path, arguments, monkeypatch):
    from meap.prep.steps import PackRows

    monkeypatch.setattr(PackRows, "_pack", lambda *_: 1 / 0)
    with pytest.raises(
        DataError, match=r"task 0 failed with ZeroDivisionError: division by zero \(the log is .*00000.log"
    ):
        prepare(*arguments, "remote=out")
    log = (tmp_path / "out" / ".prep" / "logs" / "task_00000.log").read_text()
    assert "ZeroDivisionError" in log
    assert "Traceback" in log


def test_two_processes_do_not_write_to_one_folder(prepare, tmp_path, arguments, monkeypatch):
    from meap.prep import preparation

    def try_again(_):
        prepare(*arguments, "remote=out")

    monkeypatch.setattr(preparation, "publish", try_again)
    mine = rf"out is being prepared by process {os.getpid()} \(.*\) for 0:\d\d:\d\d: wait for it, or end it"
    with pytest.raises(DataError, match=mine):
        prepare(*arguments, "remote=out")


@pytest.mark.slow
@pytest.mark.fault(1)
def test_killed_at_any_point_it_continues_to_the_same_bytes(
    forked_commands, prepare, tmp_path, tokenizer_dir, make_texts, write_lines, hashes_of, wait_until, record_property
):
    for number in range(6):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(500, seed=number))
    arguments = ("source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=63", "shard_size=16kb", "tasks=6")
    prepare(*arguments, "remote=expected")
    out = tmp_path / "out"
    rng = random.Random(4)

    def num_files(pattern: str) -> int:
        return len(list(out.glob(pattern)))

    def num_new_files(pattern: str) -> int:
        return sum(path.stat().st_mtime_ns > started for path in out.glob(pattern))

    events = {
        "claimed": (out / ".prep" / "job.json").exists,
        "first shards": lambda: num_new_files("train/shard.*") >= rng.randint(1, 3),
        "a shard half written": lambda: num_files("train/.shard.*.partial"),
        "first record": lambda: num_new_files(".prep/tasks/*.json") >= 1,
        "within the next task": lambda: num_new_files("train/shard.*") > 2 + num_new_files("train/shard.*.00000.*"),
        "third task": lambda: num_files(".prep/tasks/*.json") >= 2 and num_new_files("train/shard.*") >= 1,
        "last record": lambda: num_files(".prep/tasks/*.json") == 6,
        "publishing": (out / "train" / "manifest.json").exists,
    }
    killed = []
    for name, event in events.items():
        started = time.time_ns()
        with forked_commands(*arguments, "remote=out", "workers=1") as group:
            wait_until(lambda event=event, group=group: event() or not _is_running(group))
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        killed += [name] if forked_commands.status == -signal.SIGKILL else []
        assert num_files(".prep/tasks/*.json") == 6 or not num_files("*/index.json"), f"published too early: {name}"
    # On a busy machine some moments are over before they are seen; test_kills.py counts its moments instead.
    assert len(killed) >= 2, killed
    record_property("injected", len(killed))
    with forked_commands(*arguments, "remote=out", "workers=1"):
        pass
    assert forked_commands.status == 0
    assert "complete: 3,000 documents, " in (tmp_path / "command.log").read_text()
    assert hashes_of(out) == hashes_of(tmp_path / "expected")
    assert not (out / ".prep" / "scratch").exists()


@pytest.mark.slow
@pytest.mark.fault(1)
def test_with_workers_it_survives_a_kill_an_interrupt_and_the_loss_of_a_worker(
    start_command, prepare, tmp_path, tokenizer_dir, make_texts, write_lines, hashes_of, wait_until, record_property
):
    for number in range(5):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(2000, seed=number))
    arguments = ("source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=63", "shard_size=32kb", "tasks=5")
    arguments += ("progress_interval=600",)
    prepare(*arguments, "remote=expected")
    prep = tmp_path / "out" / ".prep"

    def shards() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("train/shard.*")}

    process = start_command(*arguments, "remote=out", "workers=2")
    wait_until(lambda: list(prep.glob("tasks/*.json")))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "out").glob("*/index.json"))

    before = shards()
    process = start_command(*arguments, "remote=out", "workers=2")
    wait_until(lambda: shards() != before)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to every process of the group
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    told = [line for line in err.splitlines()[1:] if " documents | " not in line]
    assert told == ["interrupted: run the same command again to continue"]

    before = shards()
    process = start_command(*arguments, "remote=out", "workers=2")
    wait_until(lambda: shards() != before)
    running = [json.loads(path.read_text()) for path in prep.glob("scratch/progress/*.json")]
    victim = next(each["pid"] for each in running if not each["is_done"])
    assert victim != process.pid
    os.kill(victim, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    (told,) = [line for line in err.splitlines()[1:] if " documents | " not in line]
    assert told.startswith(f"error: the worker process {victim} of task ")
    assert told.endswith("run the same command again to continue; if it was memory, with fewer workers")

    prepare(*arguments, "remote=out")
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "expected")
    record_property("injected", 3)


@pytest.mark.slow
def test_failure_in_a_worker_is_one_line(run_command_line, tmp_path, arguments, write_lines):
    (tmp_path / "in" / "2.json.gz").write_bytes((tmp_path / "in" / "2.json.gz").read_bytes()[:2000])
    done = run_command_line(*arguments, "remote=out", "workers=2", "progress_interval=600")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("error: in/2.json.gz is damaged after line ")
    assert done.stderr.count("\n") == 3  # what it loads, its first sign of life, and the error


@pytest.mark.slow
def test_the_bare_command_prepares_the_sample(run_command_line, tmp_path):
    done = run_command_line()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("complete: ")
    manifest = json.loads((tmp_path / "data" / "sample" / "mds" / "train" / "manifest.json").read_text())
    assert manifest["seq_len"] == 256
    assert manifest["rows"] > 5000
    assert manifest["config"]["source"] == "sample"
    assert manifest["config"]["tokenizer"]["name"] == "data/sample/tokenizer"
    assert not {"remote", "workers", "progress_interval"} & manifest["config"].keys()
    assert run_command_line().stdout.startswith("already complete: ")


def test_the_yaml_for_c4_is_valid(project_root: Path):
    from meap.config import PrepConfig, load_config

    config = load_config(PrepConfig, project_root / "yamls" / "prep_c4.yaml")
    assert (config.source, config.seq_len) == ("c4", 4096)


def _is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _index(remote: Path) -> list[dict]:
    return json.loads((remote / "train" / "index.json").read_text())["shards"]
