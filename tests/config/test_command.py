import contextlib
import errno
import os
import re
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from torch._utils import ExceptionWrapper

import meap
from meap.config import EvaluationConfig, RecipeConfig, load_config, run_command
from meap.config.command import describe_keys
from meap.errors import ConfigError, DataError, LostRankError, MeapError, MissingPackageError
from meap.places.whole import write_whole

ENTRY_POINTS = sorted(
    str(path.relative_to(Path(__file__).parents[2]))
    for folder in ("dataprep", "recipes", "experiments")
    for path in (Path(__file__).parents[2] / folder).glob("*.py")
)


def test_the_command_line_reaches_the_run(tmp_path: Path):
    seen = []
    yaml = tmp_path / "a.yaml"
    yaml.write_text("run: {name: from_yaml}\n")
    assert run_command(RecipeConfig, seen.append, doc="d", argv=[str(yaml), "masking.ratio=0.3"]) == 0
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
    assert run_command(RecipeConfig, lambda _: None, doc="d", argv=argv) == 2
    captured = capsys.readouterr().err
    assert captured.startswith(message)
    assert "Traceback" not in captured


def test_a_dry_run_gets_the_same_configuration_instead_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ran, rehearsed = [], []
    commands = {"doc": "d", "dry_run": rehearsed.append}
    assert run_command(RecipeConfig, ran.append, argv=["run.seed=3", "--dry-run"], **commands) == 0
    assert (ran, [config.run.seed for config in rehearsed]) == ([], [3])
    assert run_command(RecipeConfig, ran.append, doc="d", argv=["--dry-run"]) == 2  # preparation has none
    assert "'--dry-run' is neither a .yaml file nor section.key=value" in capsys.readouterr().err


def test_an_error_for_the_user_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]):
    def fail(_: RecipeConfig) -> None:
        raise DataError("shard x is damaged: prepare it again")

    assert run_command(RecipeConfig, fail, doc="d", argv=["run.seed=1"]) == 1
    assert capsys.readouterr().err == "error: shard x is damaged: prepare it again\n"


def test_interruption_says_how_to_continue(capsys: pytest.CaptureFixture[str]):
    def interrupt(_: RecipeConfig) -> None:
        raise KeyboardInterrupt

    assert run_command(RecipeConfig, interrupt, doc="d", argv=["run.seed=1"]) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_every_key_is_described():
    described = "\n".join(describe_keys(RecipeConfig))
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
        f"sys.path.insert(0, {str(Path(script).parent)!r})\n"
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


MISTAKES = [
    ("meap_1b", ["--masking.ratio=0.2"], "'--masking.ratio=0.2' is neither .*: drop the dashes, masking.ratio=0.2"),
    ("meap_1b", ["--masking.ratio", "0.2"], "drop the dashes, masking.ratio=0.2"),
    ("meap_1b", ["masking.ratio", "0.2"], "write masking.ratio=0.2, with = and without spaces"),
    ("meap_1b", ["masking.ratio", "=", "0.2"], "write masking.ratio=0.2, with = and without spaces"),
    ("meap_1b", ["masking.ratio=", "0.2"], "'0.2' is neither .*: write masking.ratio=0.2, without a space"),
    ("meap_1b", ["Masking.Ratio=0.2"], "unknown key 'Masking.Ratio'; did you mean 'masking.ratio'"),
    ("meap_1b", ["ratio=0.2"], "unknown key 'ratio'; did you mean 'masking.ratio'"),
    ("meap_1b", ["yamls/tiny.yaml", "--dry_run"], "'--dry_run' is neither .*: did you mean --dry-run?"),
    (
        "meap_1b",
        ["-n", "8", "yamls/tiny.yaml"],
        "it is an option of the launcher and .*: composer -n 8 recipes/meap_1b.py",
    ),
    ("meap_1b", ["--nproc_per_node=8", "yamls/tiny.yaml"], "it is an option of the launcher"),
    (
        "evaluate",
        ["--nproc-per-node", "8"],
        "it is an option of the launcher and .*: torchrun --nproc-per-node 8 recipes/evaluate.py",
    ),
    ("meap_1b", ["yamls/tiny.yaml", "yamls/1b.yaml"], "one yaml at a time, not yamls/tiny.yaml and yamls/1b.yaml"),
    ("meap_1b", ["yamls/tny.yaml"], "no configuration file at yamls/tny.yaml in .*; did you mean yamls/tiny.yaml?"),
    ("meap_1b", ["tiny.yaml"], "no configuration file at tiny.yaml in .*; did you mean yamls/tiny.yaml?"),
    ("meap_1b", ["yamls/tiny"], "'yamls/tiny' is neither .*: did you mean yamls/tiny.yaml?"),
    (
        "meap_1b",
        ["yamls/prep_c4.yaml"],
        "is not for meap_1b .*'source'.*`python dataprep/c4_to_mds.py yamls/prep_c4.yaml`",
    ),
    ("meap_1b", ["yamls/prep_alpaca.yaml"], "is not for meap_1b .*: run `python dataprep/sft_to_mds.py yamls/prep_alp"),
    ("meap_1b", ["yamls/eval.yaml"], "is not for meap_1b .*: run `python recipes/evaluate.py yamls/eval.yaml`"),
    (
        "meap_1b",
        ["yamls/sft_tiny.yaml"],
        "yamls/sft_tiny.yaml is for recipes/meap_sft.py, not for meap_1b: run `composer",
    ),
    ("meap_1b", ["yamls/controls/sft_llama3_8b_ntp.yaml"], "is for recipes/meap_sft.py"),
    ("meap_sft", ["yamls/long/tiny_long.yaml"], "is for recipes/meap_1b.py, not for meap_sft: run `composer"),
    (
        "c4_to_mds",
        ["yamls/sft_tiny.yaml"],
        "is not for c4_to_mds .*: run `composer recipes/meap_sft.py yamls/sft_tiny.yaml`",
    ),
    ("evaluate", ["yamls/tiny.yaml"], "is not for evaluate .*: run `composer recipes/meap_1b.py yamls/tiny.yaml`"),
    (
        "meap_sft",
        ["yamls/tiny.yaml"],
        r"model.base is not set: fine-tuning .*\(recipes/meap_1b.py trains from scratch\)",
    ),
    (
        "meap_1b",
        ["yamls/long/tiny_long.yaml", "model.base=null"],
        "model.base_rope_theta=640000 replaces the theta of model.base, which is not set: set it, or",
    ),
    ("meap_1b", ["scheduler.warmup_duration=9ba", "train.max_duration=9ba"], "scheduler.warmup_duration=9ba .* leaves"),
    ("meap_1b", ["data.remote=s3://me:hunter2@b/c"], "data.remote is a URL with a user or password"),
    ("export_hf", ["checkpoint.folder=s3://me:hunter2@b/c"], "checkpoint.folder is a URL with a user or password"),
    ("evaluate", ["tasks=all"], "model is not set: give model="),
    ("evaluate", ["model=x", "tasks=nothing"], "there is no 'nothing'; choose from perplexity, "),
    ("evaluate", ["compare=a"], "compare=a names 1 folders: give two"),
    ("run", ["seeds=[1,1]"], r"seeds=\[1, 1\]: give at least 2, each once"),
    ("map", ["x=1"], "unknown key 'x'"),
    ("demo", ["x=1"], "unknown key 'x'"),
    ("demo", ["--fast"], "'--fast' is neither"),
    ("c4_to_mds", ["source=x.jsonl"], "remote is not set: for source=x.jsonl say where to write"),
    ("c4_to_mds", ["compression=gzip"], "compression='gzip' is not known"),
    ("sft_to_mds", ["source=x.jsonl", "remote=y"], "tokenizer.name is not set"),
    ("litpkds_to_mds", ["remote=x"], "source is not set: say where the chunks are"),
]


def run_entry_point(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A real process, which fails where it has imported a library that takes seconds."""
    probe = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(Path(script).parent)!r})\n"
        f"sys.argv = {[script, *arguments]!r}\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert not {'torch', 'composer', 'transformers', 'streaming', 'datatrove'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", probe]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def answer(project_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Status and output of an entry point in this process, where it does not matter what that has imported."""

    def run(name: str, *arguments: str, cwd: Path = project_root) -> tuple[int, str, str]:
        (script,) = (each for each in ENTRY_POINTS if Path(each).stem == name)
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        monkeypatch.syspath_prepend(str((project_root / script).parent))
        # Which would see to it that this process ends, too.
        monkeypatch.setattr("meap.processes.leave", lambda run, *given, **named: sys.exit(run(*given, **named)))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(project_root / script), run_name="__main__")
        captured = capsys.readouterr()
        return int(str(end.value.code)), captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("name", "arguments", "message"), MISTAKES, ids=[f"{m[0]}: {' '.join(m[1])}" for m in MISTAKES]
)
def test_a_mistake_is_answered_in_one_line_with_a_remedy(answer, name: str, arguments: list[str], message: str):
    status, output, errors = answer(name, *arguments)
    assert (status, output) == (2, "")
    assert re.fullmatch(f"error: .*{message}.*\n", errors), errors
    assert "hunter2" not in errors


@pytest.mark.parametrize(
    ("script", "key"), [("recipes/export_hf.py", "export.checkpoint"), ("recipes/meap_1b.py", "train.branch_from")]
)
def test_a_missing_checkpoint_is_told_before_anything_heavy_is_imported(
    script: str, key: str, project_root: Path, tmp_path: Path
):
    for step in (30, 60):
        (tmp_path / f"ba{step}.json").touch()
    done = run_entry_point(script, f"{key}={tmp_path}/ba77.pt", f"run.dir={tmp_path}/run", cwd=project_root)
    told = f"error: {key}={tmp_path}/ba77.pt does not exist: choose from ba30, ba60 in {tmp_path}\n"
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run.dir={here}/trunk"], "run trunk"),
        (["run.dir={here}/trunk", "checkpoint.folder={here}/elsewhere"], "{here}/elsewhere"),
        (["export.checkpoint={here}/trunk/checkpoints/ba7.pt"], "{here}/trunk/checkpoints/ba7.pt"),
    ],
)
def test_an_export_begins_with_the_place_of_what_it_exports(answer, tmp_path: Path, arguments: list[str], told: str):
    for folder in ("trunk/checkpoints", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "ba7.json").touch()
    _, _, errors = answer("export_hf", *(each.format(here=tmp_path) for each in arguments))
    assert errors.startswith(f"export_hf  {told.format(here=tmp_path)}: loading torch, composer and transformers ...\n")


@pytest.mark.parametrize("script", ENTRY_POINTS)
def test_mistakes_are_answered_before_anything_heavy_is_imported(script: str, project_root: Path):
    for name, arguments, _ in MISTAKES:
        if Path(script).stem == name:
            last = arguments
    done = run_entry_point(script, *last, cwd=project_root)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["meap_1b", "meap_sft", "export_hf", "evaluate"])
def test_a_recipe_without_arguments_says_how_it_is_used(answer, name: str):
    status, output, errors = answer(name)
    assert (status, output) == (2, "")
    usage, *examples = errors.splitlines()
    assert usage == f"{name} takes [yaml] [section.key=value ...], and --help lists the keys"
    assert len(examples) == 2
    assert all(f"recipes/{name}.py yamls/" in example for example in examples)


@pytest.mark.parametrize("script", ENTRY_POINTS)
def test_version_is_printed(answer, script: str):
    assert answer(Path(script).stem, "--version") == (0, f"meap {meap.__version__}\n", "")


def test_the_configuration_can_be_printed_instead_of_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ran: list[RecipeConfig] = []
    arguments = ["masking.ratio=0.3", "run.name=x"]
    assert run_command(RecipeConfig, ran.append, doc="d", argv=["--print-config", *arguments]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert ran == []
    assert load_config(RecipeConfig, tmp_path / "printed.yaml") == load_config(RecipeConfig, None, arguments)


def test_what_the_machine_forbids_is_one_line(capsys: pytest.CaptureFixture[str]):
    forbidden = Path("/sys/meap")  # also to root
    status = run_command(RecipeConfig, lambda config: forbidden.mkdir(), doc="d", argv=["run.name=x"])
    assert status == 1
    assert re.fullmatch(
        "error: /sys/meap: (Operation not permitted|Permission denied|Read-only file system); free it, or choose "
        "another path\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    ("fail", "told"),
    [
        (
            lambda path: write_whole(path, b"x" * 8192, one_writer=True),
            r"\S+/made: No space left on device; free it, or choose another path",
        ),
        (
            lambda path: Path("/dev/full").write_bytes(b"x"),
            "No space left on device: free space on the disks of .* and of TMPDIR, .*, and run it again",
        ),
    ],
)
def test_a_disk_that_is_full_is_one_line_also_where_a_write_does_not_say_of_which_file(fail, told, tmp_path, capsys):
    tmp_path.joinpath(".made.partial").symlink_to("/dev/full")
    assert run_command(RecipeConfig, lambda _: fail(tmp_path / "made"), doc="d", argv=["run.name=x"]) == 1
    assert re.fullmatch(f"error: {told}\n", capsys.readouterr().err)


@pytest.mark.parametrize("is_of_a_library", [False, True])
def test_too_few_open_files_are_one_line_with_the_limit(is_of_a_library, capsys: pytest.CaptureFixture[str]):
    """Also where a library passes on the text alone, as torch does for its loader workers."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 4

    def open_many(_: RecipeConfig) -> None:
        with contextlib.ExitStack() as files:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
                for _ in range(limit):
                    files.enter_context(Path("/dev/null").open())
            except OSError as error:
                if is_of_a_library:
                    raise RuntimeError(f"unable to open shared memory object: {error.strerror} (24)") from None
                raise

    try:
        status = run_command(RecipeConfig, open_many, doc="d", argv=["run.seed=1"])
        told = capsys.readouterr().err
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
    assert status == 1
    assert told == (
        f"error: too many open files: this process may open {limit:,}; raise that with `ulimit -n 4096`, and run the "
        "same command again\n"
    )


def test_what_the_machine_refuses_a_loader_worker_is_one_line(capsys: pytest.CaptureFixture[str]):
    """torch raises it again in the training process, as text with its traceback, without errno and file."""

    def fail(_: RecipeConfig) -> None:
        try:
            raise PermissionError(errno.EACCES, "lock file belongs to uid 0", "/tmp/1_barrier_filelock")
        except PermissionError:
            worker = ExceptionWrapper(where="in DataLoader worker process 0")
        worker.reraise()

    assert run_command(RecipeConfig, fail, doc="d", argv=["run.seed=1"]) == 1
    assert capsys.readouterr().err == (
        "error: a loader worker cannot go on (PermissionError: [Errno 13] lock file belongs to uid 0: "
        "'/tmp/1_barrier_filelock'): see to that, or raise the number of open files with `ulimit -n 4096`, and run the "
        "same command again\n"
    )


def test_a_batch_that_finds_no_shared_memory_is_one_line(capsys: pytest.CaptureFixture[str]):
    def fail(_: RecipeConfig) -> None:
        raise RuntimeError("Caught\nRuntimeError: unable to allocate shared memory(shm) for </torch_1>: No space left")

    assert run_command(RecipeConfig, fail, doc="d", argv=["run.seed=1"]) == 1
    told = capsys.readouterr().err
    assert "a loader worker cannot hand over a batch (RuntimeError: unable to allocate" in told
    assert "/dev/shm" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("error", [LostRankError, DataError, MissingPackageError])
def test_an_error_of_ours_in_a_loader_worker_is_told_as_anywhere_else(capsys, error: type[MeapError]):
    def fail(_: RecipeConfig) -> None:
        try:
            raise error("shards/00001 is damaged (MeapError: 3 bytes): fetch it again")
        except MeapError:
            worker = ExceptionWrapper(where="in DataLoader worker process 0")
        worker.reraise()

    assert run_command(RecipeConfig, fail, doc="d", argv=["run.seed=1"]) == (2 if error is MissingPackageError else 1)
    assert capsys.readouterr().err == "error: shards/00001 is damaged (MeapError: 3 bytes): fetch it again\n"


@pytest.mark.parametrize(
    "told",
    [
        "[pair.cc:545] Read error [127.0.0.1]:1437: Connection reset by peer. This is typically caused by",
        "[pair.cc:534] Connection closed by peer [127.0.0.1]:11883",
        "[unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete",
        "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
    ],
)
def test_a_rank_whose_neighbour_ends_at_the_start_says_so_in_a_line(capsys, monkeypatch, told: str):
    def lose(_: RecipeConfig) -> None:
        raise RuntimeError(told)

    monkeypatch.setenv("RANK", "1")
    assert run_command(RecipeConfig, lose, doc="d", argv=["run.seed=1"]) == 1
    assert capsys.readouterr().err == (
        f"error: rank 1 lost another rank outside of training ({told}): look for the reason among the messages of that "
        "rank\n"
    )
    monkeypatch.delenv("RANK")
    with pytest.raises(RuntimeError):  # a store's connection, say
        run_command(RecipeConfig, lose, doc="d", argv=["run.seed=1"])


def test_a_rank_that_can_open_no_connection_says_what_to_do(capsys, monkeypatch):
    def fail(_: RecipeConfig) -> None:
        raise RuntimeError("Cannot resolve 127.0.0.1 to a (local) address")

    monkeypatch.setenv("RANK", "1")
    assert run_command(RecipeConfig, fail, doc="d", argv=["run.seed=1"]) == 1
    assert re.fullmatch(r"error: rank 1 cannot open .*ulimit -n 4096.*GLOO_SOCKET_IFNAME\n", capsys.readouterr().err)


def test_a_yaml_of_the_project_is_found_from_another_folder(answer, tmp_path: Path, project_root: Path):
    status, _, errors = answer("meap_1b", "yamls/tiny.yaml", cwd=tmp_path)
    assert status == 2
    where = f"no configuration file at yamls/tiny.yaml in {tmp_path}; did you mean {project_root}/yamls/tiny.yaml?"
    assert errors == f"error: {where}\n"
    (tmp_path / "mine.yaml").write_text("{}")
    assert "in " + str(tmp_path) + "; there are mine.yaml\n" in answer("meap_1b", "other.yaml", cwd=tmp_path)[2]


def test_a_yaml_with_an_equals_sign_in_its_name_is_a_yaml(tmp_path: Path):
    path, seen = tmp_path / "ratio=0.2.yaml", []
    path.write_text("masking: {ratio: 0.2}\n")
    assert run_command(RecipeConfig, seen.append, doc="d", argv=[str(path)]) == 0
    assert (seen[0].run.name, seen[0].masking.ratio) == ("ratio=0.2", 0.2)


def test_what_takes_seconds_is_announced_by_one_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    command = {"doc": "d", "loads": "torch", "argv": ["run.name=x"]}
    for rank, line in (({}, True), ({"RANK": "0"}, True), ({"RANK": "1"}, False), ({"SLURM_PROCID": "3"}, False)):
        for name, value in rank.items():
            monkeypatch.setenv(name, value)
        assert run_command(RecipeConfig, lambda _: None, **command) == 0
        assert capsys.readouterr().err == ("test_command  run x: loading torch ...\n" if line else "")
        for name in rank:
            monkeypatch.delenv(name)


def test_what_the_configuration_alone_contradicts_comes_before_the_run(capsys: pytest.CaptureFixture[str]):
    def refuse(_: RecipeConfig) -> None:
        raise ConfigError("no")

    ran: list[RecipeConfig] = []
    assert run_command(RecipeConfig, ran.append, doc="d", check=refuse, loads="torch", argv=["run.name=x"]) == 2
    assert (ran, capsys.readouterr().err) == ([], "error: no\n")


def test_nobody_has_to_read_all_of_it(project_root: Path):
    command = ["recipes/meap_1b.py", "--help"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, *command], cwd=project_root, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("is_told", [True, False])
def test_output_on_a_full_disk_is_one_line_and_hides_no_status(is_told: bool, project_root: Path):
    program = """
from meap.config import RecipeConfig, run_command
from meap.errors import StoppedError
from meap.processes import leave

def main(config):
    print("done")
    if config.run.name == "stopped":
        raise StoppedError("stopped: run the same command again")

leave(run_command, RecipeConfig, main, doc="d")
"""
    for name, status, line in [
        ("x", 1, "error: No space left on device: free space on .*, and run it again"),
        ("stopped", 75, "stopped: run the same command again"),
    ]:
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-c", program, f"run.name={name}"],
                cwd=project_root,
                env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
                stdout=full,
                stderr=subprocess.PIPE if is_told else full,
                text=True,
                check=False,
            )
        assert done.returncode == status
        assert not is_told or re.fullmatch(f"{line}\n", done.stderr)


def test_a_broken_pipe_that_is_not_the_output_is_not_hidden():
    def fail(_: RecipeConfig) -> None:
        raise BrokenPipeError("a worker has gone")

    with pytest.raises(BrokenPipeError, match="a worker has gone"):
        run_command(RecipeConfig, fail, doc="d", argv=["run.name=x"])


def test_help_shows_values_as_they_are_typed():
    described = "\n".join(describe_keys(EvaluationConfig))
    assert "attention_decay.lengths=[1024, 4096]\n" in described
    assert "add_bos=true\n" in described
    assert 'needle_fu.needle="\\nThe best' in described
    keys = [line.strip() for line in described.splitlines() if re.match(r" *[a-z_.]+=\S", line)]
    assert load_config(EvaluationConfig, None, keys) == EvaluationConfig()
