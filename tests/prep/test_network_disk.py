"""A place on a network file system: no locks, no hard links, handles that go stale, files that appear late."""

import os
from types import SimpleNamespace

import pytest

from meap.places.folder import Folder
from meap.places.locks import NoLocksError, lock_file
from meap.prep.claims import held
from meap.prep.executors import base
from tests.in_a_fork import in_a_fork
from tests.network_disk import IS_KNOWN, become_network_disk

pytestmark = [
    pytest.mark.fault(1),
    pytest.mark.skipif(not IS_KNOWN, reason="calls of this processor have other numbers"),
]


@pytest.fixture
def arguments(tmp_path, tokenizer_dir, make_texts, write_lines) -> tuple[str, ...]:
    write_lines(tmp_path / "in.json.gz", make_texts(60))
    return ("source=in.json.gz", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "heldout_ratio=0.1")


def test_without_locks_a_claim_keeps_a_second_preparation_out(prepare, tmp_path, arguments, hashes_of):
    def prepare_there() -> None:
        become_network_disk()
        with pytest.raises(NoLocksError):
            lock_file(tmp_path / "lock")
        prepare(*arguments, "remote=out")

    (tmp_path / "out/.prep").mkdir(parents=True)
    with held(Folder(str(tmp_path / "out")), ".prep/claim.json"):
        told = in_a_fork(prepare_there)
    assert told.startswith(f"DataError: out is being prepared by process {os.getpid()} on "), told
    assert told.endswith("or at once if you delete out/.prep/claim.json")
    assert in_a_fork(prepare_there) == ""
    assert not (tmp_path / "out/.prep/claim.json").exists()
    prepare(*arguments, "remote=elsewhere")
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "elsewhere")


def test_of_two_that_claim_a_local_place_at_once_one_gets_it(tmp_path):
    folder = Folder(str(tmp_path))
    assert [folder.create("claim", b"1"), folder.create("claim", b"2")] == [True, False]
    assert folder.read("claim") == b"1"


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_records_that_appear_late_are_waited_for_and_not_for_ever(monkeypatch, seconds):
    """Completed on another machine, whose files this one sees a little later; its clock is the test's."""
    now, slept = [100.0], []
    clock = SimpleNamespace(  # of that module alone: other threads have the real one
        monotonic=lambda: now[0], sleep=lambda wait: slept.append(wait) or now.__setitem__(0, now[0] + wait)
    )
    monkeypatch.setattr(base, "time", clock)

    class Job:
        def records(self):
            return {0: "", 1: ""} if now[0] - 100 >= seconds else {0: ""}

    assert base.wait_for_records(Job(), [0, 1], completed=[0, 1]) == []  # pyright: ignore[reportArgumentType]
    assert sum(slept) == seconds
    assert base.wait_for_records(Job(), [0, 1, 2], completed=[0, 1]) == [2]  # pyright: ignore[reportArgumentType]
    assert sum(slept) == seconds, "a task that failed is not waited for"
    assert base.wait_for_records(Job(), [2], completed=[2]) == [2]  # pyright: ignore[reportArgumentType]
    assert sum(slept) <= seconds + 100
