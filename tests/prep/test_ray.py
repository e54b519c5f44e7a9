"""Through a real Ray on this machine: the same bytes, one error per failure, and a worker that is killed."""

import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from meap.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def cluster(bytecode_cache) -> Iterator[None]:
    """A cluster of this machine, for as long as the tests of this file take."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("NOT TESTED: ray is not installed: make install EXTRAS=ray")
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        for name, value in bytecode_cache.items():
            patch.setenv(name, value)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.fixture
def arguments(tmp_path, tokenizer_dir, make_texts, write_lines) -> tuple[str, ...]:
    """Three files, three tasks, several shards each."""
    for number in range(3):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(150, seed=number))
    given_keys = ("source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "shard_size=8kb", "heldout_ratio=0.05")
    return (*given_keys, "tasks=3")


@pytest.mark.slow
def test_with_a_worker_killed_the_bytes_are_those_of_local_processes(
    cluster, prepare, tmp_path, arguments, hashes_of, wait_until, capsys
):
    prepare(*arguments, "remote=expected")
    tallies = tmp_path / "out" / ".prep" / "scratch" / "progress"
    killed = []

    def kill_the_first_worker() -> None:
        wait_until(lambda: list(tallies.glob("*.json")))
        counts = json.loads(min(tallies.glob("*.json")).read_text())
        assert not counts["is_done"]
        os.kill(counts["pid"], signal.SIGKILL)
        killed.append(counts["pid"])

    killer = threading.Thread(target=kill_the_first_worker)
    killer.start()
    prepare(*arguments, "remote=out", "executor=ray", "workers=2")
    killer.join()
    assert killed
    assert killed != [os.getpid()]
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "expected")
    assert capsys.readouterr().out.count("complete: 450 documents, ") == 2
    prepare(*arguments, "remote=out", "executor=ray", "workers=0", "ray.cpus_per_task=0.5", "ray.memory_gb=0.1")
    assert capsys.readouterr().out.startswith("already complete: ")


@pytest.mark.slow
def test_a_task_that_fails_is_one_error_and_the_others_are_kept(cluster, prepare, tmp_path, arguments, capsys):
    damaged = tmp_path / "in" / "1.json.gz"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"^in/1.json.gz is damaged after line .*: fetch the file again$"):
        prepare(*arguments, "remote=out", "executor=ray", "workers=0")
    assert sorted(path.name for path in (tmp_path / "out" / ".prep" / "tasks").iterdir()) == [
        "00000.json",
        "00002.json",
    ]
    assert "warning: task 1 failed on " in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("index.json"))


def test_where_there_is_no_cluster_it_says_so(prepare, arguments, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(
        ConfigError, match=r"ray.address=127.0.0.1:9: cannot connect to a Ray cluster .*Connection refused.*: start one"
    ):
        prepare(*arguments, "remote=out", "executor=ray", "ray.address=127.0.0.1:9")


@pytest.mark.slow
def test_without_ray_it_says_so(prepare, arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"executor=ray needs ray, which is not installed: make install EXTRAS=ray "):
        prepare(*arguments, "remote=out", "executor=ray")
