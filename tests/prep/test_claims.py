"""One preparation at a time in a place of a store; what two jobs have written is never taken for one data set."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from meap.errors import DataError, MismatchError
from meap.places.folder import Folder
from meap.prep import claims
from meap.prep.audit.places import find_data_sets
from meap.prep.audit.verify import verify


@pytest.fixture
def arguments(tmp_path, tokenizer_dir, make_texts, write_lines) -> tuple[str, ...]:
    for number in range(2):
        write_lines(tmp_path / "in" / f"{number}.json.gz", make_texts(60, seed=number))
    return ("source=in", f"tokenizer.name={tokenizer_dir}", "seq_len=31", "heldout_ratio=0.1", "tasks=2", "remote=out")


@pytest.fixture
def place(bucket, server, monkeypatch) -> Folder:
    keys = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(claims, "_SETTLE_SECONDS", 0.3)
    return Folder("s3://corpus/mds")


@pytest.mark.parametrize("is_conditional", [True, False])
def test_of_many_processes_that_begin_at_once_one_holds_the_place(place, monkeypatch, is_conditional):
    if not is_conditional:  # as stores do that ignore If-None-Match
        monkeypatch.setattr(Folder, "create", lambda self, name, content: self.write(name, content) or True)

    def take(_) -> str:
        try:
            claims.StoreClaim(place, "claim.json").take()
        except DataError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(4) as threads:
        said = list(threads.map(take, range(4)))
    assert said.count("") == 1
    assert [each for each in said if each and "s3://corpus/mds is being prepared by process " not in each] == []


def test_a_claim_ends_with_its_holder_and_says_who_that_is(place):
    with claims.held(place, "claim.json") as claim:
        with pytest.raises(DataError, match=r"process \d+ on .* for 0:00:0\d, last heard of 0:00:0\d ago: wait for it"):
            claims.StoreClaim(place, "claim.json").take()
        claim.require()
        stored = claims._Holder(**json.loads(place.read("claim.json")))
        for changes in ({"pid": 2**22 + 1}, {"machine": "another", "renewed": time.time() - 3600}):
            killed = replace(stored, **changes, id="another")
            place.write("claim.json", killed.to_json())
            with pytest.raises(DataError, match=r"was taken over by process"):
                claim.require()
            claims.StoreClaim(place, "claim.json").take()
        elsewhere = replace(stored, pid=2**22 + 1, machine="another", id="another")
        place.write("claim.json", elsewhere.to_json())
        with pytest.raises(DataError, match=r"or at once if you delete s3://corpus/mds/claim.json"):
            claims.StoreClaim(place, "claim.json").take()
    assert place.read("claim.json") == elsewhere.to_json(), "a claim of another is not removed"
    place.remove("claim.json")
    with claims.held(place, "claim.json"):
        pass
    assert place.read("claim.json") is None


def test_what_two_jobs_have_written_is_never_whole(prepare, tmp_path, arguments, hashes_of, capsys):
    prepare(*arguments)
    assert not verify(find_data_sets(str(tmp_path / "out")), workers=1).findings
    mine = hashes_of(tmp_path / "out")
    prepare(*arguments, "seed=7", "remote=other")
    for name in (".prep/job.json", ".prep/tasks/00001.json"):
        (tmp_path / "out" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    shards = [path.relative_to(tmp_path / "other") for path in (tmp_path / "other").rglob("shard.00001*")]
    for name in shards:
        (tmp_path / "out" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    found = verify(find_data_sets(str(tmp_path / "out")), workers=1).findings
    assert any(each.what == "job" and each.file.endswith("tasks/00001.json") for each in found)
    capsys.readouterr()
    prepare(*arguments, "seed=7")
    assert capsys.readouterr().out.startswith("complete: ")
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "other") != mine
    (tmp_path / "out/train/manifest.json").write_text(
        (tmp_path / "out/train/manifest.json").read_text().replace('"job": "sha256:', '"job": "sha256:0')
    )
    assert verify(find_data_sets(str(tmp_path / "out")), workers=1).findings
    prepare(*arguments, "seed=7")
    assert capsys.readouterr().out.startswith("complete: "), "the manifest there is another job's"


@pytest.mark.parametrize("first", [("seq_len=100000",), ("max_bad_lines=0",)], ids=["no rows", "no task finished"])
def test_a_first_try_that_has_produced_nothing_is_replaced(prepare, tmp_path, arguments, write_lines, hashes_of, first):
    is_bad = first == ("max_bad_lines=0",)
    if is_bad:
        write_lines(tmp_path / "bad" / "0.jsonl", ["one two three " * 999, b"bad"])
        first = (*first, "source=bad", "tasks=1", "shard_size=5kb")
    with pytest.raises(DataError):
        prepare(*arguments, *first)
    of_another_job = tmp_path / "out" / "other" / "train" / "shard.00000.00000.mds.zstd"
    for path in (of_another_job, tmp_path / "out" / "other" / ".prep" / "job.json"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"not finished yet")
    prepare(*arguments)
    assert of_another_job.exists()
    shutil.rmtree(tmp_path / "out" / "other")
    prepare(*arguments, "remote=expected")
    assert hashes_of(tmp_path / "out") == hashes_of(tmp_path / "expected")
    with pytest.raises(MismatchError, match=r"holds another data set"):
        prepare(*arguments, "seed=1")
