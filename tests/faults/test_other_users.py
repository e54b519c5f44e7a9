"""A user without a home, a name or other rights than those in one folder, and with a umask that shuts others out."""

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meap.config import DataConfig
from meap.data import open_shards
from meap.data.pinned.isolation import _lock_caches
from meap.evals.hugging_face import require_model_files
from meap.places.folder import Folder
from tests.in_a_fork import in_a_fork
from tests.other_user import become_user
from tests.train.conftest import SMALL

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root"),
    pytest.mark.timeout(300),
]

USER, OTHER_USER = 54321, 54322  # without an entry in /etc/passwd


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """The one folder where the user may write; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        own = Path(folder, "own")
        own.mkdir()
        os.chown(own, USER, USER)
        yield own


def modes(folder: Path) -> set[str]:
    """Of all files and folders below."""
    return {stat.filemode(path.stat().st_mode) for path in folder.rglob("*") if not path.is_symlink()}


@pytest.mark.slow
def test_a_user_with_one_folder_does_everything_there_and_nobody_else_reads_it(
    own_folder, tokenizer_dir, project_root, warm_python, quiet_environment
):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own_folder.parent / name).write_bytes((tokenizer_dir / name).read_bytes())
    (own_folder.parent / "text.jsonl").write_text(
        "".join(f'{{"text": "Letter {number} was counted twice."}}\n' for number in range(200))
    )
    no_home = {name: quiet_environment[name] for name in quiet_environment if name not in {"HOME", "USER", "LOGNAME"}}
    environment = no_home | {"PYTHONPATH": str(project_root), "TMPDIR": str(own_folder)}

    def run(*command: str) -> str:
        script = (warm_python, str(project_root / "tests/other_user.py"), str(USER), "077")
        done = subprocess.run(
            [*script, *command], cwd=own_folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    recipes = project_root / "recipes"
    prepared = ("source=../text.jsonl", "tokenizer.name=..", "seq_len=16", "heldout_ratio=0.2", "workers=1")
    run(str(project_root / "dataprep/c4_to_mds.py"), *prepared, "remote=mds")
    assert run("-m", "meap", "verify", "remote=mds").startswith("whole: ")
    trained = (*SMALL, "data.remote=mds", "run.dir=runs/a", "run.name=a", "data.num_workers=1")
    run(str(recipes / "meap_1b.py"), *trained, "train.max_duration=4ba")
    assert "resumes    from" in run(str(recipes / "meap_1b.py"), *trained, "train.max_duration=5ba")
    run(str(recipes / "export_hf.py"), "runs/a/config.yaml")
    run(str(recipes / "evaluate.py"), "model=runs/a/hf", "tasks=perplexity", "perplexity.remote=[mds]", "out_dir=out")
    assert modes(own_folder) == {"drwx------", "-rw-------"}
    assert not [path for path in own_folder.iterdir() if path.name not in {"mds", "runs", "out"}], "something is left"


def as_another_user(act: Callable[[], object]) -> str:
    """What the error says that a user gets who has nothing here; empty for none."""
    return in_a_fork(lambda: (become_user(OTHER_USER), act()))


@pytest.mark.parametrize(("mode", "is_readable"), [(0o755, True), (0o700, False)])
def test_what_a_umask_lets_others_read_they_read_and_else_are_told_why_not(own_folder, write_shards, mode, is_readable):
    data = write_shards(own_folder / "mds", rows=16, validation_rows=0)
    (data / "train").chmod(mode)
    told = as_another_user(lambda: open_shards(DataConfig(remote=str(data), seq_len=16), "train"))
    if is_readable:
        assert told == ""
    else:
        assert told.startswith(f"DataError: {data}/train/index.json: access denied (PermissionError: ")
        assert told.endswith("check the permissions, or the credentials in the environment")


def test_a_cache_or_a_place_of_another_user_is_refused_by_name(own_folder, write_shards):
    own_folder.chmod(0o755)
    told = as_another_user(lambda: _lock_caches([str(own_folder / "cache/train")], ["s3://somewhere"]))
    assert told.startswith(f"ConfigError: the cache folder {own_folder}/cache/train cannot be written (PermissionError")
    assert told.endswith("data.cache_dir on a disk that nodes do not share")
    told = as_another_user(Folder(str(own_folder), key="remote").require_writable)
    assert told.startswith(f"DataError: remote={own_folder}: access denied (PermissionError")


@pytest.mark.parametrize(("mode", "told"), [(0o711, ""), (0o700, "is not there: give")])
def test_a_model_below_a_folder_that_may_not_be_listed(own_folder, mode, told):
    """Evaluations ended in a traceback: they looked for names that are nearly the same."""
    (own_folder / "tiny").mkdir()
    (own_folder / "tiny" / "config.json").touch()
    own_folder.chmod(mode)
    error = as_another_user(lambda: require_model_files(str(own_folder / "tiny")))
    assert error == "" if not told else error.startswith(f"CheckpointError: model={own_folder}/tiny {told}")
