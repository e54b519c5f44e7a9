"""Deduplication keeps the first of equal or similar documents, over all tasks, whatever happens on the way."""

import copy
import itertools
import json
import os
import random
import re
import shutil
import signal
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from meap.errors import ConfigError, DataError, IncompleteError, MismatchError
from meap.places.folder import Folder
from meap.prep.removal import duplicates
from meap.prep.removal.stages import WORK_DIR, _sizes_of

BOTH = ("dedup.exact=true", "dedup.minhash=true", "dedup.num_buckets=4", "dedup.hashes_per_bucket=3")


@pytest.fixture
def arguments(tokenizer_dir):
    return (f"tokenizer.name={tokenizer_dir}", "seq_len=31", "shard_size=8kb", "heldout_ratio=0.1", "workers=1")


@pytest.fixture
def write_corpus(tmp_path, write_lines):
    """Write the files of a corpus, as lists of texts."""

    def write(name: str, files: list[list[str]]) -> str:
        for number, texts in enumerate(files):
            write_lines(tmp_path / name / f"{number}.jsonl", texts)
        return f"source={name}"

    return write


@pytest.fixture(scope="module")
def planted():
    """Three files; which documents stay if equal texts, and similar ones, are removed (by a set, and by design)."""
    rng = random.Random(5)

    def words(count: int) -> list[str]:
        return ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(3, 8))) for _ in range(count)]

    texts = [" ".join(words(rng.randint(40, 80))) for _ in range(90)]
    nearly = [" ".join([*text.split(), *words(1)]) for text in texts[:12]]
    once_more = [" ".join([*text.split()[1:]]) for text in texts[:4]]
    short = ["ab cd", "ab cd ef", "ab cd"]
    files = [
        [*texts[0:40], short[0], texts[3]],
        [short[1], *nearly[6:], *texts[40:70], texts[7], *once_more, texts[45]],
        [short[2], texts[69], *nearly[:6], *texts[70:], texts[0], texts[0], texts[88], nearly[1]],
    ]
    seen, unlike = set(), set(texts) | set(short)
    exact, similar = [], []
    for file in files:
        exact.append([text for text in file if not (text in seen or seen.add(text))])
        similar.append([text for text in exact[-1] if text in unlike])
    in_order = [text for file in files for text in file]
    assert {in_order.index(text) for text in texts[:12]} < {in_order.index(text) for text in texts}
    return {"files": files, "exact": exact, "similar": similar}


def _data(hashes: dict[str, str]) -> dict[str, str]:
    """Without what says where the data came from."""
    return {name: value for name, value in hashes.items() if ".mds" in name or name.endswith("index.json")}


def _removed(remote: Path) -> dict[str, int]:
    return json.loads((remote / "train" / "manifest.json").read_text())["counts"]


def _count(files: list[list[str]]) -> int:
    return sum(map(len, files))


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_the_first_of_equal_texts_stays(prepare, tmp_path, arguments, write_corpus, planted, hashes_of, tasks):
    prepare(write_corpus("left", planted["exact"]), *arguments, f"tasks={tasks}", "remote=expected")
    prepare(write_corpus("in", planted["files"]), *arguments, f"tasks={tasks}", "remote=out", "dedup.exact=true")
    assert _data(hashes_of(tmp_path / "out")) == _data(hashes_of(tmp_path / "expected"))
    gone = _count(planted["files"]) - _count(planted["exact"])
    assert _removed(tmp_path / "out") == {"removed/exact_dedup/same_text": gone}
    assert not (tmp_path / "out" / ".prep" / "dedup").exists()


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 3])
def test_similar_texts_go_and_distinct_ones_stay(
    prepare, tmp_path, arguments, write_corpus, planted, hashes_of, tasks, capsys
):
    gone = _count(planted["files"]) - _count(planted["similar"])
    equal = _count(planted["files"]) - _count(planted["exact"])
    prepare(write_corpus("left", planted["similar"]), *arguments, f"tasks={tasks}", "remote=expected")
    capsys.readouterr()
    prepare(write_corpus("in", planted["files"]), *arguments, f"tasks={tasks}", "remote=out", *BOTH)
    assert _data(hashes_of(tmp_path / "out")) == _data(hashes_of(tmp_path / "expected"))
    assert _removed(tmp_path / "out") == {
        "removed/exact_dedup/same_text": equal,
        "removed/minhash_dedup/similar_text": gone - equal,
    }
    said = capsys.readouterr()
    assert f"removed {gone} of {_count(planted['files'])} documents" in said.out
    assert [line for line in said.err.splitlines() if " documents | " not in line] == [
        f"deduplication: signatures: {tasks} of {tasks} tasks to do",
        f"deduplication: equal texts: {tasks} of {tasks} tasks to do",
        "deduplication: pairs of similar texts: 4 of 4 tasks to do",
        "deduplication: clusters of similar texts: 1 of 1 tasks to do",
    ]
    # Alone, minhash leaves the equal texts that are too short for a shingle.
    prepare("source=in", *arguments, f"tasks={tasks}", "remote=minhash", *BOTH, "dedup.exact=false")
    assert _removed(tmp_path / "minhash") == {"removed/minhash_dedup/similar_text": gone - 1}


@pytest.mark.slow
def test_tasks_without_a_signature_are_no_trouble(prepare, tmp_path, arguments, write_corpus, make_texts):
    files = [["one two", "three four", "one two"], make_texts(30), ["five"], ["salt"]]
    command = (write_corpus("in", files), *arguments, "tasks=4", *BOTH, "filters.regex=^salt")
    prepare(*command, "remote=minhash", "dedup.exact=false")
    assert _removed(tmp_path / "minhash") == {"removed/regex/match": 1}
    prepare(*command, "remote=both")
    assert _removed(tmp_path / "both") == {"removed/regex/match": 1, "removed/exact_dedup/same_text": 1}


@pytest.mark.parametrize(("room", "is_warned"), [(1 << 40, False), (1000, True)])
def test_pairs_that_may_not_fit_into_memory_are_told_before_they_are_read(
    prepare, tmp_path, arguments, write_corpus, planted, capsys, monkeypatch, room, is_warned
):
    monkeypatch.setattr(duplicates, "_usable_memory", lambda: room)
    source = write_corpus("raw", planted["files"])
    prepare(source, *arguments, "tasks=3", "remote=out", *BOTH)
    told = capsys.readouterr().err
    warned = (
        r"(?s)warning: \d+ pairs of similar texts take up to .* more than the 1.0 kB of this machine: .*clusters of"
    )
    assert bool(re.search(warned, told)) == ("pairs of similar texts take" in told) == is_warned


@pytest.mark.parametrize(
    ("executor", "whose"),
    [("slurm", r"8.6 GB of slurm.mem_per_cpu_gb times slurm.cpus_per_task"), ("ray", r"1.1 GB of ray.memory_gb")],
)
def test_the_memory_of_a_cluster_is_what_its_tasks_get(executor, whose):
    """Not that of the machine where the command was given."""
    config = SimpleNamespace(
        executor=executor,
        slurm=SimpleNamespace(mem_per_cpu_gb=4, cpus_per_task=2),
        ray=SimpleNamespace(memory_gb=1.0),
    )
    folder = SimpleNamespace(matching=lambda _: {"pairs": 16 * 10**8})
    warning = duplicates._memory_warning(SimpleNamespace(config=config, folder=folder))
    assert re.search(rf"take up to 24.0 GB of memory in one task, more than the {whose}: if that task is", warning)


@pytest.mark.parametrize(
    ("executor", "tasks", "remote", "is_refused"),
    [
        ("local", 3, "corpus", True),
        ("local", 2, "corpus", False),
        ("slurm", 3, "corpus", False),
        ("local", 3, "s3://bucket/corpus", False),  # opened as requests, not as files
    ],
)
def test_more_tasks_than_files_may_be_open_are_refused_before_any_is_run(
    monkeypatch, executor, tasks, remote, is_refused
):
    """After the signatures of all documents, a stage that opens files of all tasks could never end."""
    limits = SimpleNamespace(getrlimit=lambda _: (64, 106), RLIMIT_NOFILE=7, RLIM_INFINITY=-1)
    monkeypatch.setattr(duplicates, "resource", limits)
    config = SimpleNamespace(executor=executor, dedup=SimpleNamespace(exact=True))
    told = r"^tasks=3: deduplication opens up to 109 files at once, and a process may open 106 here: .* set tasks=2 at"
    with pytest.raises(ConfigError, match=told) if is_refused else nullcontext():
        duplicates._require_files(SimpleNamespace(config=config, num_tasks=tasks, folder=Folder(remote)))


def test_a_process_may_do_any_number_of_tasks(tmp_path):
    """Each wrapped the listing of the one before, up to Python's limit of recursion at task 988."""
    (tmp_path / "00000").mkdir()
    step = duplicates._DropExact(str(tmp_path), duplicates._exact_config(), None)
    for task in range(1100):
        assert list(copy.copy(step).run(iter(()), task, 1100)) == []


def test_what_a_task_has_written_is_found_without_a_listing_of_all_tasks(tmp_path, monkeypatch):
    """Thousands of tasks write into the same folders: each listed the files of all."""
    work = tmp_path / WORK_DIR
    for bucket, task in itertools.product(range(2), range(3)):
        file = work / f"minhash/signatures/bucket_{bucket:03d}/{task:05d}.minhash.sig"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(10 * bucket + task))
    monkeypatch.setattr(Folder, "matching", None)
    found = _sizes_of(Folder(str(tmp_path)), "minhash/signatures/*/00002.minhash.sig")
    names = [f"{WORK_DIR}/minhash/signatures/bucket_00{bucket}/00002.minhash.sig" for bucket in range(2)]
    assert found == dict(zip(names, (2, 12), strict=True))
    assert _sizes_of(Folder(str(tmp_path)), "exact/signatures/*/00002.c4_sig") == {}


def test_a_bad_line_is_told_once_though_it_is_read_twice(prepare, tmp_path, arguments, write_lines, make_texts, capsys):
    write_lines(tmp_path / "in.jsonl", [*make_texts(20), b"{", *make_texts(20, seed=1)])
    prepare("source=in.jsonl", *arguments, "remote=out", "max_bad_lines=1", "dedup.exact=true")
    said = capsys.readouterr()
    assert said.err.count("warning: left out in.jsonl:21: not valid JSON") == said.err.count("warning: left out") == 1
    assert "; left out: 1 bad lines (" in said.out


def test_filters_come_first_and_duplicates_are_of_what_they_leave(
    prepare, tmp_path, arguments, write_corpus, planted, hashes_of
):
    files = [[text for each in file for text in ("salt " + each, each)] for file in planted["files"]]
    prepare(write_corpus("left", planted["similar"]), *arguments, "tasks=3", "remote=expected")
    prepare(write_corpus("in", files), *arguments, "tasks=3", "remote=out", *BOTH, "filters.regex=salt")
    assert _data(hashes_of(tmp_path / "out")) == _data(hashes_of(tmp_path / "expected"))
    assert _removed(tmp_path / "out")["removed/regex/match"] == _count(planted["files"])


def test_the_parameters_belong_to_the_identity(prepare, arguments, write_corpus, planted):
    prepare(write_corpus("in", planted["files"]), *arguments, "tasks=3", "remote=out", "dedup.exact=true")
    with pytest.raises(MismatchError, match=r"out holds another data set; dedup.minhash=False there, dedup.minhash=Tr"):
        prepare("source=in", *arguments, "tasks=3", "remote=out", "dedup.exact=true", "dedup.minhash=true")


def test_too_many_tasks_are_refused(prepare, arguments, write_corpus, planted, monkeypatch):
    from meap.prep.removal import steps

    monkeypatch.setattr(steps, "MAX_TASKS", 2)
    with pytest.raises(ConfigError, match=r"tasks=3 is too many for dedup.exact: 2 is the most"):
        prepare(write_corpus("in", planted["files"]), *arguments, "tasks=3", "remote=out", "dedup.exact=true")


@pytest.mark.slow
def test_half_written_stages_are_not_trusted(
    prepare, tmp_path, arguments, write_corpus, planted, hashes_of, monkeypatch
):
    from meap.prep.steps import PackRows

    command = (write_corpus("in", planted["files"]), *arguments, "tasks=3", *BOTH)
    prepare(*command, "remote=expected")
    with monkeypatch.context() as patch:
        patch.setattr(PackRows, "_pack", lambda *_: 1 / 0)
        with pytest.raises(DataError, match=r"task 0 failed with ZeroDivisionError"):
            prepare(*command, "remote=stages")
    damages = (
        "exact/signatures/0000/00001.c4_sig",
        "exact/duplicates/*/00002.c4_dup",
        "minhash/signatures/bucket_001/00001.minhash.sig",
        "minhash/pairs/00002_00.dups",
        "minhash/removed/000002.remove",
        "done/signatures/00000.json",
    )
    for number, damage in enumerate(damages):
        out = tmp_path / str(number)
        shutil.copytree(tmp_path / "stages", out)
        path = next(path for path in (out / ".prep" / "dedup").glob(damage) if path.stat().st_size)
        path.write_bytes(path.read_bytes()[:-1])
        prepare(*command, f"remote={number}")
        assert hashes_of(out) == hashes_of(tmp_path / "expected"), damage


@pytest.mark.slow
def test_a_lost_shard_is_made_again_though_the_working_files_are_gone(
    prepare, tmp_path, arguments, write_corpus, planted, hashes_of
):
    command = (write_corpus("in", planted["files"]), *arguments, "tasks=3", *BOTH, "remote=out")
    prepare(*command)
    expected = hashes_of(tmp_path / "out")
    (tmp_path / "out" / "train" / "shard.00001.00000.mds.zstd").unlink()
    prepare(*command)
    assert hashes_of(tmp_path / "out") == expected


def test_a_stage_that_does_not_come_to_its_end_stops_the_job(prepare, arguments, write_corpus, planted, monkeypatch):
    from meap.prep.executors.local import LocalExecutor

    real = LocalExecutor.get_incomplete_ranks
    monkeypatch.setattr(LocalExecutor, "get_incomplete_ranks", lambda *given, **named: real(*given, **named)[:-1])
    with pytest.raises(IncompleteError, match=r"out: task 2 and 0 more of 3 of the stage signatures are not com"):
        prepare(write_corpus("in", planted["files"]), *arguments, "tasks=3", "remote=out", "dedup.exact=true")


@pytest.mark.slow
@pytest.mark.parametrize("forked_commands", [("spacy", "meap.prep.removal.duplicates")], ids=[""], indirect=True)
def test_killed_in_any_stage_it_continues_to_the_same_bytes(
    forked_commands, prepare, tmp_path, arguments, write_corpus, planted, hashes_of, wait_until
):
    command = (write_corpus("in", planted["files"]), *arguments, "tasks=3", *BOTH)
    prepare(*command, "remote=expected")
    expected = hashes_of(tmp_path / "expected")
    out, killed = tmp_path / "out", []
    work = out / ".prep" / "dedup"
    events = {
        "first signature": "minhash/signatures/bucket_000/00000.minhash.sig",
        "first record": "done/signatures/00000.json",
        "equal texts": "done/exact/00000.json",
        "pairs": "minhash/pairs/00001_00.dups",
        "clusters": "minhash/removed/000000.clusters",
        "first task": "../tasks/00000.json",
    }
    for name, pattern in events.items():
        with forked_commands(*command, "remote=out") as group:
            wait_until(lambda pattern=pattern, group=group: list(work.glob(pattern)) or not _is_running(group))
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        killed += [name] if forked_commands.status == -signal.SIGKILL else []
    assert len(killed) >= 2, killed
    with forked_commands(*command, "remote=out"):
        pass
    assert forked_commands.status == 0, (tmp_path / "command.log").read_text()
    assert hashes_of(out) == expected
    assert not work.exists()


@pytest.mark.slow
def test_workers_and_remote_storage_change_nothing(
    run_command_line, prepare, tmp_path, arguments, write_corpus, planted, hashes_of, server, bucket
):
    command = (write_corpus("in", planted["files"]), *arguments, "tasks=3", *BOTH)
    prepare(*command, "remote=expected")
    keys = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
    done = run_command_line(*command, "remote=s3://corpus/out", "workers=2", **keys, S3_ENDPOINT_URL=server)
    assert done.returncode == 0, done.stderr
    stored = {each.key.removeprefix("out/"): each for each in bucket.objects.all()}
    assert not [name for name in stored if name.startswith(".prep/dedup/")]
    for name in hashes_of(tmp_path / "expected"):
        assert stored[name].get()["Body"].read() == (tmp_path / "expected" / name).read_bytes(), name


def _is_running(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.fault(2)
def test_a_full_disk_is_named_with_the_remedy(
    prepare, tmp_path, arguments, write_corpus, planted, hashes_of, small_disk, record_property
):
    command, sizes = (write_corpus("in", planted["files"]), *arguments, "tasks=3", "dedup.exact=true"), (16, 28)
    prepare(*command, "remote=expected")
    full = r"no space left for .*disk/out.* \(.*[\d,]+ bytes free on its disk\): free space and run the same"
    for size in sizes:  # no room for what is found, and none for the record of it
        small_disk(size)
        with pytest.raises(DataError, match=full):
            prepare(*command, "remote=disk/out")
    disk = small_disk(16 << 10)
    prepare(*command, "remote=disk/out")
    assert hashes_of(disk / "out") == hashes_of(tmp_path / "expected")
    record_property("injected", len(sizes))
