import subprocess
import sys
from pathlib import Path

import pytest

from meap.config import TrainingConfig, run_command
from meap.config.command import describe_keys
from meap.errors import DataError

ENTRY_POINTS = sorted(
    str(path.relative_to(Path(__file__).parents[2]))
    for folder in ("dataprep", "recipes")
    for path in (Path(__file__).parents[2] / folder).glob("*.py")
)


def test_the_command_line_reaches_the_run(tmp_path: Path):
    seen = []
    yaml = tmp_path / "a.yaml"
    yaml.write_text("run: {name: from_yaml}\n")
    assert run_command(TrainingConfig, seen.append, doc="d", argv=[str(yaml), "masking.ratio=0.3"]) == 0
    assert (seen[0].run.name, seen[0].masking.ratio) == ("from_yaml", 0.3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["masking.ratio=2"], "error: masking.ratio=2.0 is out of range"),
        (["what"], "error: 'what' is neither a .yaml file nor section.key=value"),
        (["a.yaml", "b.yaml"], "error: one yaml at a time"),
    ],
)
def test_bad_configuration_is_one_line_and_status_2(argv, message, capsys: pytest.CaptureFixture[str]):
    assert run_command(TrainingConfig, lambda _: None, doc="d", argv=argv) == 2
    captured = capsys.readouterr().err
    assert captured.startswith(message)
    assert "Traceback" not in captured


def test_a_dry_run_gets_the_same_configuration_instead_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ran, rehearsed = [], []
    commands = {"doc": "d", "dry_run": rehearsed.append}
    assert run_command(TrainingConfig, ran.append, argv=["run.seed=3", "--dry-run"], **commands) == 0
    assert (ran, [config.run.seed for config in rehearsed]) == ([], [3])
    assert run_command(TrainingConfig, ran.append, doc="d", argv=["--dry-run"]) == 2  # preparation has none
    assert "'--dry-run' is neither a .yaml file nor section.key=value" in capsys.readouterr().err


def test_an_error_for_the_user_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]):
    def fail(_: TrainingConfig) -> None:
        raise DataError("shard x is damaged: prepare it again")

    assert run_command(TrainingConfig, fail, doc="d", argv=["run.seed=1"]) == 1
    assert capsys.readouterr().err == "error: shard x is damaged: prepare it again\n"


def test_interruption_says_how_to_continue(capsys: pytest.CaptureFixture[str]):
    def interrupt(_: TrainingConfig) -> None:
        raise KeyboardInterrupt

    assert run_command(TrainingConfig, interrupt, doc="d", argv=["run.seed=1"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_every_key_is_described():
    described = "\n".join(describe_keys(TrainingConfig))
    assert "masking.ratio=0.15" in described
    assert "0 is plain next-token prediction" in described
    assert "data.streams.<name>.proportion=\n" in described
    assert not [line for line in described.splitlines() if "  " in line.strip()], "line breaks of the source"


HEAVY = {
    "torch",
    "composer",
    "streaming",
    "datatrove",
    "transformers",
    "matplotlib",
    "tokenizers",
    "fsspec",
    "numpy",
}


@pytest.mark.parametrize("script", ENTRY_POINTS)
def test_help_is_light_and_complete(script: str, project_root: Path):
    """--help prints the docstring and the keys without importing a heavy library, which is what keeps it quick."""
    probe = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", probe], cwd=project_root, capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.returncode == 0, finished.stderr
    assert script in finished.stdout
    assert ("keys, with their defaults" in finished.stdout) == (script != "recipes/demo.py")
