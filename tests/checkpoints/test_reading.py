"""Finding checkpoints, reading them as data, and putting their weights into a model."""

import os
from pathlib import Path

import fsspec
import pytest
import torch

from meap.checkpoints import find_checkpoint, newest_record, require_checkpoint_at
from meap.checkpoints.finding import store_and_step
from meap.checkpoints.reading import (
    load_weights,
    local_copy,
    read_checkpoint,
    read_record,
    recorded_config,
)
from meap.errors import CheckpointError


@pytest.fixture
def store():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/bucket", recursive=True) if filesystem.exists("/bucket") else None


# --- which one ---


@pytest.mark.parametrize("folder", ["{tmp_path}", "memory://bucket/run"])
def test_the_newest_whole_one_is_found(tmp_path, store, publish, folder, capsys):
    folder = folder.format(tmp_path=tmp_path)
    for step in (9, 20, 100):
        publish(folder, step)
    assert find_checkpoint(f"{folder}/") == f"{folder}/ba100.pt"
    filesystem, root = fsspec.core.url_to_fs(folder)
    filesystem.pipe_file(f"{root}/ba100.pt", b"short")
    filesystem.pipe_file(f"{root}/ba300.pt", b"never published")
    assert find_checkpoint(folder) == f"{folder}/ba20.pt"
    assert "ba100 is damaged (ba100.pt has 5 bytes instead of" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_no_checkpoint_is_reported(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no whole checkpoint \(of 0 with a record.*train first"):
        find_checkpoint(str(tmp_path / folder))


def test_an_unreadable_folder_is_reported():
    with pytest.raises(CheckpointError, match=r"checkpoint.folder=nosuch://x cannot be used .*check the"):
        find_checkpoint("nosuch://x")


@pytest.mark.parametrize("folder", ["{tmp_path}", "memory://bucket/run"])
def test_the_configuration_is_that_of_the_run_which_wrote_the_checkpoint(tmp_path, store, publish, folder):
    folder = folder.format(tmp_path=tmp_path)
    publish(folder, 20, config={"run": {"name": "other"}})
    location = f"{folder}/ba20.pt"
    assert recorded_config(read_record(location), location).run.name == "other"
    with pytest.raises(CheckpointError, match=r"^export.checkpoint=.*ba9.pt does not exist: choose from ba20 in "):
        read_record(f"{folder}/ba9.pt")
    filesystem, root = fsspec.core.url_to_fs(folder)
    filesystem.pipe_file(f"{root}/ba9.pt", b"whose record is lost")
    with pytest.raises(CheckpointError, match=r"of export.checkpoint=.*ba9.pt is not known \(ba9.json is missing\)"):
        read_record(f"{folder}/ba9.pt")
    with pytest.raises(CheckpointError, match=r"latest.pt is not called ba<step>.pt or ba<step>: give one"):
        read_record(f"{folder}/latest.pt")


@pytest.mark.parametrize(("location", "store"), [("/ba9.pt", "/"), ("ba9.pt", "."), ("a/ba9/", "a")])
def test_the_store_of_a_checkpoint_is_the_folder_that_it_is_in(location, store):
    assert [store_and_step(location)[0].location, store_and_step(location)[1]] == [store, 9]


def test_a_checkpoint_that_is_not_there_is_told_with_the_nearest(tmp_path, publish):
    with pytest.raises(CheckpointError, match=r"none/ba7.pt does not exist: there is none at all, correct the path$"):
        require_checkpoint_at(f"{tmp_path}/none/ba7.pt")
    for step in range(10, 130, 10):
        publish(str(tmp_path), step)
    require_checkpoint_at(f"{tmp_path}/ba120")
    named = ", ".join(f"ba{step}" for step in range(30, 130, 10))
    with pytest.raises(CheckpointError) as refused:
        require_checkpoint_at(f"{tmp_path}/ba119.pt")
    told = f"export.checkpoint={tmp_path}/ba119.pt does not exist: choose from {named} and 2 more in {tmp_path}"
    assert str(refused.value) == told
    with pytest.raises(CheckpointError, match=r"^train.branch_from=.*/ba119.pt does not exist"):
        require_checkpoint_at(f"{tmp_path}/ba119.pt", key="train.branch_from")


def test_an_error_names_the_setting_that_led_there(tmp_path, publish):
    key = "model.base"
    publish(str(tmp_path), 20).unlink()
    for act, message in (
        (
            lambda: find_checkpoint(str(tmp_path), key=key),
            r"^model.base=.* holds no whole checkpoint \(of 1 with a record",
        ),
        (lambda: find_checkpoint("nosuch://x", key=key), r"^model.base=nosuch://x cannot be used"),
        (lambda: newest_record("nosuch://x", key=key), r"^model.base=nosuch://x cannot be used"),
        (lambda: read_record(f"{tmp_path}/ba9.pt", key=key), r"^model.base=.*/ba9.pt does not exist: choose from ba20"),
        (lambda: read_record("nosuch://x/ba9.pt", key=key), r"^model.base=nosuch://x.* cannot be used"),
        (lambda: local_copy(f"{tmp_path}/ba20.pt", key=key).__enter__(), r"^model.base=.*/ba20.pt does not exist"),
        (lambda: local_copy("latest://x/ba20.pt", key=key).__enter__(), r"^model.base=latest://x.* cannot be used"),
    ):
        with pytest.raises(CheckpointError, match=message):
            act()


# --- getting it ---


def test_a_download_is_verified_and_removed_again(store, publish):
    content = publish("memory://bucket/run", 20).read_bytes()
    with local_copy("memory://bucket/run/ba20.pt") as path:
        assert path.name == "ba20.pt"
        assert path.read_bytes() == content
    assert not path.exists()
    store.pipe("/bucket/run/ba20.pt", bytes(len(content)))
    damaged = pytest.raises(CheckpointError, match=r"is damaged \(ba20.pt does not have the hash.*give an older one")
    with damaged, local_copy("memory://bucket/run/ba20.pt"):
        pass


def test_what_cannot_be_had_is_reported(tmp_path):
    for location, message in (
        (str(tmp_path / "ba1.pt"), "does not exist: correct the path"),
        ("memory://bucket/none/ba1.pt", r"is damaged \(ba1.json is missing"),
        ("memory://bucket/none/latest", "is not called ba<step>.pt or ba<step>"),
    ):
        with pytest.raises(CheckpointError, match=message), local_copy(location):
            pass


# --- reading it ---


def test_a_checkpoint_is_read(tmp_path, write_checkpoint):
    path = write_checkpoint(tmp_path / "ba7.pt", {"model.a": torch.ones(2)})
    found = read_checkpoint(path)
    assert (found.name, found.run_name, found.step, found.tokens) == ("ba7.pt", "small", 7, 700)
    assert torch.equal(found.weights["model.a"], torch.ones(2))


class Payload:
    """Runs a program when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self):
        return os.system, (self._command,)


@pytest.mark.fault(10)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_a_program_is_refused(tmp_path, zipped, monkeypatch):
    touched = tmp_path / "touched"
    hostile = tmp_path / "ba1.pt"
    torch.save(
        {"state": {"model": {"w": torch.ones(1)}, "callbacks": Payload(f"touch {touched}")}},
        hostile,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CheckpointError, match=r"ba1.pt asks for posix.system: loading it could run a program"):
        read_checkpoint(hostile)
    assert not touched.exists()
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)  # a recipe in this process may have set it
    torch.load(hostile, weights_only=False)
    assert touched.exists(), "the payload was harmless, so the test proved nothing"


def test_a_damaged_checkpoint_is_reported(tmp_path, write_checkpoint):
    path = write_checkpoint(tmp_path / "ba7.pt", {"a": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(
        CheckpointError, match=r"ba7.pt is damaged \(\w+Error.*give an older one with export.checkpoint="
    ):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [{"weights": {}}, {"state": {"optimizers": {}}}, [1, 2]])
def test_another_programs_file_is_reported(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other.pt has no state/model, so it is not one that Composer wrote"):
        read_checkpoint(tmp_path / "other.pt")


# --- using it ---


def loaded(write_checkpoint, path: Path, weights, model):
    load_weights(model, read_checkpoint(write_checkpoint(path, weights)))
    return model


def test_weights_arrive_without_their_wrappers(tmp_path, write_checkpoint):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    weights = {"module.0._orig_mod.weight": torch.full((3, 2), 5.0), "module.0._orig_mod.bias": torch.zeros(3)}
    loaded(write_checkpoint, tmp_path / "ba7.pt", weights, model)
    assert torch.equal(model[0].weight, torch.full((3, 2), 5.0))


@pytest.mark.parametrize(
    "weights",
    [
        {"weight": torch.zeros(3, 2)},
        {"weight": torch.zeros(4, 2), "bias": torch.zeros(3)},
        {"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "extra": torch.zeros(1)},
    ],
    ids=["missing", "shape", "extra"],
)
def test_weights_that_do_not_fit_are_reported(tmp_path, write_checkpoint, weights):
    with pytest.raises(CheckpointError, match=r"ba7.pt does not fit the run's configuration \(.*(bias|weight|extra)"):
        loaded(write_checkpoint, tmp_path / "ba7.pt", weights, torch.nn.Linear(2, 3))
