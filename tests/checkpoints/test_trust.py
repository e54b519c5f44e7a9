"""Sharded checkpoints are data, never programs: their metadata is a pickle that torch itself would run."""

import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dist_cp

from meap.checkpoints.trust import load_checkpoint, require_data


class Payload:
    """Unpickling this would create the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def sharded(tmp_path) -> Path:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    state = {"state": {"model": weights, "epoch": 3, "optimizers": {"AdamW": {"a": torch.zeros(2)}}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dist_cp.save(state, storage_writer=dist_cp.FileSystemWriter(tmp_path / "ba8"), no_dist=True)
    return tmp_path / "ba8"


def test_weights_are_read_from_the_parts(sharded):
    assert require_data(sharded / ".metadata")
    weights = load_checkpoint(str(sharded))["state"]["model"]
    assert weights.keys() == {"a", "b"}
    assert torch.equal(weights["a"], torch.arange(6.0).reshape(2, 3))
    assert weights["b"].dtype == torch.bfloat16


@pytest.mark.fault(10)
@pytest.mark.parametrize("read", [require_data, lambda path: load_checkpoint(str(path.parent))])
def test_hostile_metadata_is_refused_and_not_run(sharded, tmp_path, read):
    metadata = pickle.loads((sharded / ".metadata").read_bytes())
    metadata.planner_data = Payload(tmp_path / "touched")
    (sharded / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(pickle.UnpicklingError, match=r"GLOBAL posix.system was not an allowed global"):
        read(sharded / ".metadata")
    assert not (tmp_path / "touched").exists()
    pickle.loads((sharded / ".metadata").read_bytes())
    assert (tmp_path / "touched").exists(), "the payload was harmless, so the test proved nothing"


def test_what_is_no_metadata_is_refused(sharded):
    (sharded / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(pickle.UnpicklingError, match="is not the metadata"):
        require_data(sharded / ".metadata")
