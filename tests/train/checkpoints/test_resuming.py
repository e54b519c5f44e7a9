"""What a resumed run is trained on."""

import shutil

import pytest

from meap.errors import MismatchError, TrainingError
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
