"""Ranks of an evaluation that wait for each other can be stopped."""

import os
import signal
import socket
import subprocess

import pytest

from meap.places.locks import sole_writer
from tests.train.forked_runs import STOPPED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rank_that_waits_for_one_that_never_comes_can_be_stopped(
    tmp_path, project_root, warm_python, quiet_environment, write_shards, llama, tokenizer, wait_until, number
):
    """It waited within torch, where signals are not handled, for up to a week."""
    write_shards(tmp_path / "mds", seq_len=16)
    llama.save_pretrained(tmp_path / "hf")
    tokenizer.save(tmp_path / "hf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = ["model=hf", "tasks=perplexity", "perplexity.remote=[mds]"]
    waiting = subprocess.Popen(
        [warm_python, str(project_root / "recipes" / "evaluate.py"), *words],
        cwd=tmp_path,
        env=quiet_environment | ranks,
        stderr=subprocess.PIPE,
        text=True,
    )

    def hosts_the_others() -> bool:
        with socket.socket() as other:
            return other.connect_ex(("127.0.0.1", port)) == 0

    wait_until(hosts_the_others)
    os.kill(waiting.pid, number)
    _, told = waiting.communicate(timeout=60)
    assert waiting.returncode == (STOPPED if number == signal.SIGTERM else 130), told
    assert "Traceback" not in told


def test_no_rank_writes_beside_another_evaluation(
    tmp_path, project_root, warm_python, quiet_environment, write_shards, llama, tokenizer
):
    """The first rank was refused, and the others had begun."""
    write_shards(tmp_path / "mds", seq_len=16)
    llama.save_pretrained(tmp_path / "hf")
    tokenizer.save(tmp_path / "hf")
    words = ["model=hf", "tasks=perplexity", "perplexity.remote=[mds]", "out_dir=out"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
        }
    with sole_writer(tmp_path / "out"):
        ranks = [
            subprocess.Popen(
                [warm_python, str(project_root / "recipes" / "evaluate.py"), *words],
                cwd=tmp_path, env=quiet_environment | address | {"RANK": rank, "LOCAL_RANK": rank},
                stderr=subprocess.PIPE, text=True,
            )
            for rank in "01"
        ]  # fmt: skip
        told = [each.communicate(timeout=120)[1] for each in ranks]
        assert [each.returncode for each in ranks] == [1, 1], told
        assert list((tmp_path / "out").iterdir()) == []
    assert "out is being written by another process" in told[0]
    assert "Traceback" not in "".join(told)
