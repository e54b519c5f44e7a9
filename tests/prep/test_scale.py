"""What a job asks of its store grows with its tasks and no faster, and a task is sent to a worker as its number."""

from collections import Counter

import dill
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from meap.prep import claims
from meap.prep.executors.local import LocalExecutor

_ASKED = ("cat_file", "pipe_file", "ls", "info", "exists", "rm_file", "_open")


@pytest.fixture
def asked(monkeypatch) -> Counter[str]:
    """Calls of a store, by what is asked and of which part of a job's folder."""
    monkeypatch.setattr(claims, "_SETTLE_SECONDS", 0.0)
    counts: Counter[str] = Counter()

    def counted(name: str):
        inner = getattr(MemoryFileSystem, name)

        def call(self, path, *arguments, **keys):
            counts[name] += 1
            return inner(self, path, *arguments, **keys)

        return call

    for name in _ASKED:
        monkeypatch.setattr(MemoryFileSystem, name, counted(name))
    yield counts
    fsspec.filesystem("memory").rm("/scale", recursive=True)


def test_calls_of_a_store_grow_with_the_tasks_and_a_rerun_lists_instead_of_asking(
    prepare, tokenizer_dir, make_texts, write_lines, tmp_path, asked, monkeypatch
):
    sent = []
    run = LocalExecutor.run
    monkeypatch.setattr(LocalExecutor, "run", lambda self: (sent.append(len(dill.dumps(self))), run(self))[1])
    counts, reruns = {}, {}
    for tasks in (2, 4, 8):
        for number in range(tasks):
            write_lines(tmp_path / f"in{tasks}" / f"{number}.jsonl", make_texts(10, seed=number))
        command = (f"source=in{tasks}", f"tasks={tasks}", f"tokenizer.name={tokenizer_dir}", "seq_len=31")
        for found in (counts, reruns):
            asked.clear()
            prepare(*command, f"remote=memory://scale/{tasks}", "heldout_ratio=0", "progress_interval=600")
            found[tasks] = Counter(asked)
    for found in (counts, reruns):
        for name in _ASKED:
            one, two, four = (found[tasks][name] for tasks in (2, 4, 8))
            assert four - two <= 2 * (two - one), f"{name}: {one}, {two} and {four} for 2, 4 and 8 tasks"
    assert {name: reruns[8][name] - reruns[2][name] for name in _ASKED if name != "cat_file"} == dict.fromkeys(
        (name for name in _ASKED if name != "cat_file"), 0
    )
    assert reruns[8]["cat_file"] - reruns[2]["cat_file"] == 2 * 6, "each record twice: to resume, and for the summary"
    assert sent[2] - sent[1] < 4 * 2000, "workers get the names of the files, not what they hold"
