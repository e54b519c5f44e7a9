"""What a resumed run is trained on."""

import shutil
import subprocess
import sys

import pytest
from composer.utils import checkpoint, dist

from meap.errors import CheckpointError, MismatchError, TrainingError
from tests.train.outputs import at_pass, no_number

pytestmark = pytest.mark.fault(8)


@pytest.mark.slow
def test_other_data_at_the_same_address_is_refused_once_a_run_has_been_trained_on_it(train, write_shards, tmp_path):
    """Also on a machine that has never seen the run: all that is left of it are its checkpoints."""

    def prepare(*, rows: int = 64, seed: int = 0) -> str:
        shutil.rmtree(tmp_path / "mds", ignore_errors=True)
        return f"data.remote={write_shards(tmp_path / 'mds', seq_len=16, rows=rows, seed=seed)}"

    saved = f"checkpoint.folder={tmp_path}/saved"
    with at_pass(0, no_number), pytest.raises(TrainingError, match="begins at step 0"):
        train(tmp_path / "run", prepare(seed=1), saved)
    shutil.rmtree(tmp_path / "run/cache")
    train(tmp_path / "run", prepare(), saved, "train.max_duration=4ba")  # nothing had been trained on the other
    for number, (rows, seed) in enumerate([(64, 1), (72, 0)]):
        with pytest.raises(
            MismatchError,
            match=r"/saved/ba4.pt has been trained on 64 rows in .* shards \(sha256 .{12}\) of data.remote, wh",
        ):
            train(tmp_path / f"new{number}", prepare(rows=rows, seed=seed), saved, "train.max_duration=6ba")
    shutil.rmtree(tmp_path / "run/cache")
    assert len(train(tmp_path / "run", prepare(), saved, "train.max_duration=6ba")) == 6


@pytest.mark.slow
def test_what_another_machine_has_left_half_fetched_goes_when_the_run_resumes(train, tmp_path):
    """As where a node comes back as another one: drafts of the same machine are known by their writers."""
    saved = f"checkpoint.folder={tmp_path}/saved"
    train(tmp_path / "run", saved, "train.max_duration=4ba")
    draft = tmp_path / "saved/.ba2.pt.0badcafe-1-0.partial"
    draft.write_bytes(b"half")
    train(tmp_path / "run", saved, "train.max_duration=6ba")
    assert not draft.exists()


WITH_FEW_FILES = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_resumption_that_may_open_few_files_leaves_nothing(
    train, config_file, warm_python, quiet_environment, project_root, tmp_path
):
    """With each limit another step of it fails, among them the folder by which Composer loads a checkpoint."""
    train(tmp_path / "run", "train.max_duration=4ba")
    (temporary := tmp_path / "temporary").mkdir()
    config, statuses = config_file(tmp_path / "run", "train.max_duration=4ba"), set[int]()
    for limit in range(14, 33):
        ended = subprocess.run(
            [warm_python, "-c", WITH_FEW_FILES, str(limit), project_root / "recipes/meap_1b.py", config],
            env=quiet_environment | {"TMPDIR": str(temporary)},
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
        statuses.add(ended.returncode)
        assert "Traceback" not in ended.stderr, f"{limit}\n{ended.stderr}"
        assert not list(temporary.iterdir()), f"{limit}\n{ended.stderr}"
    assert statuses == {0, 1}


def test_a_rank_that_cannot_load_a_checkpoint_does_not_wait_for_the_others(train, monkeypatch, tmp_path):
    """They wait for it within the loading, and Composer would have it wait for them after it: half an hour."""
    train(tmp_path / "run", "train.max_duration=4ba")
    waited = list[str]()
    monkeypatch.setattr(dist, "barrier", lambda: waited.append("after an error" if sys.exc_info()[0] else "in step"))

    def fail(*_: object, **__: object) -> None:
        raise OSError("no more files")

    monkeypatch.setattr(checkpoint, "_restore_checkpoint", fail)
    told = r"rank 0 could not load the checkpoint .*ba4\.pt \(OSError: no more files\): see to its disk, then run"
    with pytest.raises(CheckpointError, match=told):
        train(tmp_path / "run", "train.max_duration=6ba")
    assert "after an error" not in waited
