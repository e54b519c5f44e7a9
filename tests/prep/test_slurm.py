"""Through a real Slurm of two nodes: the same bytes, one array whatever befalls the command, one error per failure."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meap.config.executors import SlurmConfig
from meap.errors import ConfigError, DataError
from meap.prep.executors.slurm import remedy
from meap.prep.executors.slurm_array import Element

SECRET = "a-secret-of-the-test"


@pytest.fixture
def ask(slurm) -> Callable[..., list[str]]:
    """Run one of Slurm's commands; the lines of its answer."""

    def run(*command: str) -> list[str]:
        answer = subprocess.run(command, env=os.environ | slurm, capture_output=True, text=True, check=True)
        return answer.stdout.split()

    return run


@pytest.fixture
def closed(ask) -> Iterator[Callable[[], None]]:
    """Keep submitted tasks waiting until the returned function is called."""
    ask("scontrol", "update", "PartitionName=main", "State=DOWN")

    def reopen() -> None:
        ask("scontrol", "update", "PartitionName=main", "State=UP")

    yield reopen
    reopen()


@pytest.fixture
def prepare_there(prepare, slurm, bytecode_cache, project_root, monkeypatch) -> Callable[..., None]:
    """Run the steps here and their tasks on the cluster."""
    for name, value in (slurm | bytecode_cache | {"PYTHONPATH": str(project_root)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    return lambda *overrides: prepare("executor=slurm", "workers=0", "progress_interval=0.3", *overrides)


@pytest.fixture
def arguments(tmp_path, tokenizer_dir, make_texts, write_lines) -> tuple[str, ...]:
    """Two files, two tasks, several shards each: as many as the cluster allows in one array."""
    for number in range(2):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(100, seed=number))
    given_keys = ("source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "shard_size=8kb", "heldout_ratio=0.05")
    return (*given_keys, "tasks=2", "slurm.time_hours=1", "slurm.mem_per_cpu_gb=2")


def jobs_of(remote: Path) -> list[str]:
    """Slurm's jobs that were submitted for a data set."""
    try:
        return list(json.loads((remote / ".prep" / "slurm.json").read_text())["job_ids"].values())
    except (FileNotFoundError, ValueError):
        return []


@pytest.mark.slow
def test_a_killed_command_finds_its_array_again_and_the_bytes_are_those_of_local_processes(
    start_command,
    prepare,
    prepare_there,
    closed,
    ask,
    slurm,
    tmp_path,
    arguments,
    hashes_of,
    wait_until,
    capsys,
    make_texts,
    write_lines,
):
    write_lines(tmp_path / "in" / "2.json.gz", make_texts(100, seed=2))
    arguments = (*arguments, "tasks=3")
    prepare(*arguments, "remote=expected")
    process = start_command(
        *arguments, "remote=out", "executor=slurm", "slurm.partition=main", **slurm, AWS_SECRET_ACCESS_KEY=SECRET
    )
    wait_until(lambda: len(jobs_of(tmp_path / "out")) == 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()  # its lock goes with it
    jobs = " ".join(jobs_of(tmp_path / "out"))
    with pytest.raises(DataError, match=rf"Slurm job {jobs} still runs for out: run .*=slurm .*scancel {jobs}"):
        prepare(*arguments, "remote=out")
    capsys.readouterr()

    # as if the kill had come between sbatch and the note of what it said
    record = tmp_path / "out" / ".prep" / "slurm.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"job_ids": {}}))
    closed()
    prepare_there(*arguments, "remote=out")
    told = capsys.readouterr()
    assert told.out.startswith("complete: 300 documents, ")
    assert f"waiting for Slurm job {jobs}, which an earlier command submitted\n" in told.err
    assert set(ask("squeue", "--noheader", "--states=all", "--format=%F")) == set(jobs.split())
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "expected")
    assert not record.exists()
    assert not (tmp_path / "out" / ".prep" / "scratch").exists()
    assert not [
        path for path in (tmp_path / "out").rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]

    prepare_there(*arguments, "remote=out")
    assert capsys.readouterr().out.startswith("already complete: ")


@pytest.mark.slow
def test_passes_before_the_last_one_go_through_slurm_too(prepare, prepare_there, tmp_path, arguments, hashes_of):
    (tmp_path / "in" / "2.json.gz").write_bytes((tmp_path / "in" / "0.json.gz").read_bytes())
    prepare(*arguments, "dedup.exact=true", "remote=expected")
    prepare_there(*arguments, "dedup.exact=true", "remote=out")
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "expected")
    manifest = json.loads((tmp_path / "out" / "train" / "manifest.json").read_text())
    assert manifest["counts"]["removed/exact_dedup/same_text"] == 100


@pytest.mark.slow
def test_a_task_that_fails_is_one_error_and_the_other_is_kept(prepare_there, tmp_path, arguments):
    damaged = tmp_path / "in" / "1.json.gz"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(DataError) as raised:
        prepare_there(*arguments, "remote=out")
    message = str(raised.value)
    assert message.startswith("task 1 did not finish: Slurm job ")
    assert " ended as FAILED, NonZeroExitCode, its log is " in message
    assert ": in/1.json.gz is damaged after line " in message
    assert message.endswith("; remove the cause and run the same command again, which runs only the missing tasks")
    log = Path(message.split("its log is ")[1].split(";", 1)[0])
    assert "error: in/1.json.gz is damaged" in log.read_text()
    assert [path.name for path in (tmp_path / "out" / ".prep" / "tasks").iterdir()] == ["00000.json"]
    assert not (tmp_path / "out" / ".prep" / "slurm.json").exists()
    assert not list((tmp_path / "out").rglob("index.json"))


@pytest.mark.slow
def test_ctrl_c_leaves_the_array_and_scancel_is_told_apart(
    start_command, prepare_there, closed, ask, slurm, tmp_path, arguments, wait_until
):
    process = start_command(*arguments, "remote=out", "executor=slurm", **slurm)
    wait_until(lambda: jobs_of(tmp_path / "out"))
    (job_id,) = jobs_of(tmp_path / "out")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    *_, told, last = err.splitlines()
    assert told.startswith(
        f"Slurm job {job_id} continues without this command, which waits for it again when run again; "
    )
    assert last == "interrupted: run the same command again to continue"
    (cancel,) = told.partition("to end the job: ")[2:]
    assert ask("squeue", "--noheader", "--array", f"--jobs={job_id}", "--format=%T") == ["PENDING"] * 2

    ask("scancel", f"{job_id}_0")
    process = start_command(*arguments, "remote=out", "executor=slurm", "progress_interval=0.3", **slurm)
    wait_until(lambda: f"waiting for Slurm job {job_id}" in process.stderr.readline())
    ask(*cancel.split())
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    error = err.splitlines()[-1]
    assert error.startswith(f"error: task 0 did not finish: Slurm job {job_id}_0 ended as CANCELLED")
    assert error.endswith(
        "; 1 more tasks did not finish; run the same command again, which runs only the missing tasks"
    )
    assert not jobs_of(tmp_path / "out")


@pytest.mark.slow
def test_to_s3_with_the_credentials_of_the_environment(
    prepare, prepare_there, tmp_path, arguments, server, bucket, monkeypatch, capsys
):
    prepare(*arguments, "tasks=1", "remote=expected")
    keys = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": SECRET, "S3_ENDPOINT_URL": server}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    prepare_there(*arguments, "tasks=1", "remote=s3://corpus/mds")
    assert capsys.readouterr().out.count("complete: 200 documents") == 2
    stored = {each.key: each.get()["Body"].read() for each in bucket.objects.filter(Prefix="mds/")}
    for path in (tmp_path / "expected" / "train").iterdir():
        assert stored[f"mds/train/{path.name}"] == path.read_bytes()
    assert not [key for key, content in stored.items() if SECRET.encode() in content]
    assert not [key for key in stored if "tallies" in key or "slurm.json" in key]


@pytest.mark.slow
def test_what_slurm_refuses_is_a_configuration_error(prepare_there, tmp_path, arguments):
    with pytest.raises(
        ConfigError, match=r"sbatch refuses the job \(.*Invalid partition.*\): change the keys of slurm"
    ):
        prepare_there(*arguments, "remote=out", "slurm.partition=gold")
    with pytest.raises(ConfigError, match=r"sbatch refuses the job \(.*no-such-option.*\): change the keys of slurm"):
        prepare_there(*arguments, "remote=out", "slurm.sbatch_args.no-such-option=1")
    assert not (tmp_path / "out" / ".prep" / "slurm.json").exists()


@pytest.mark.slow
def test_where_slurm_does_not_answer_it_says_so(prepare_there, tmp_path, arguments, monkeypatch):
    (tmp_path / "empty.conf").touch()
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "empty.conf"))
    with pytest.raises(DataError, match=r"scontrol fails \(.*\): run the same command again when Slurm answers"):
        prepare_there(*arguments, "remote=out")
    assert not (tmp_path / "out" / ".prep" / "slurm.json").exists()


def test_without_slurm_it_says_so(prepare, tmp_path, arguments, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        ConfigError, match=r"executor=slurm, but there is no scontrol on this machine: run .* login node"
    ):
        prepare(*arguments, "remote=out", "executor=slurm")
    (tmp_path / "out" / ".prep" / "slurm.json").write_text(
        json.dumps({"name": "meap-prep-x", "ranks": [0, 1], "chunk": 2, "job_ids": {"0": "7"}})
    )
    with pytest.raises(
        DataError, match=r"a Slurm job \(7\) was submitted for out and may still run .*delete out/.prep/sl"
    ):
        prepare(*arguments, "remote=out")
    (tmp_path / "out" / ".prep" / "slurm.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"out/.prep/slurm.json is not readable \(KeyError: 'name'\): end the Slurm job"
    ):
        prepare(*arguments, "remote=out", "executor=slurm")


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        ("TIMEOUT", "TimeLimit", r"raise slurm.time_hours=20 and run the same command again"),
        ("OUT_OF_MEMORY", "OutOfMemory", r"raise slurm.mem_per_cpu_gb=4 and run the same command again"),
        ("FAILED", "RaisedSignal:9(Killed)", r"raise slurm.mem_per_cpu_gb=4 and run the same command again"),
        ("FAILED", "NonZeroExitCode", r"remove the cause and run the same command again"),
        ("NODE_FAIL", "None", r"run the same command again, which runs only the missing tasks"),
    ],
)
def test_the_remedy_fits_the_state(state, reason, told):
    element = Element("1_0", state, reason)
    assert remedy(element, SlurmConfig()).startswith(told)
    assert not element.is_live
    assert Element("1_0", "REQUEUED", "None").is_live
