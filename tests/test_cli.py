"""The command `meap`: quick help, one grammar, one line for a mistake, and an end with the right status."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

import meap
from meap.cli import _DEPENDENCIES, COMMANDS, main
from meap.config import load_config
from meap.config.keys import fields_of

HEAVY = {"torch", "streaming", "transformers", "datatrove", "composer", "fsspec", "numpy", "matplotlib", "yaml"}
MISTAKES = [
    ([], "meap COMMAND [yaml] [key=value ...]"),
    (["inspct"], "'inspct' is no command of meap: did you mean `meap inspect`?"),
    (["train"], "'train' is no command of meap: it is a script of the project: composer recipes/meap_1b.py"),
    (["runs=a,b"], "'runs=a,b' is no command of meap: name the command first"),
    (["inspect"], "meap inspect takes [yaml] [key=value ...], and --help lists the keys"),
    (["inspect", "{here}"], "'{here}' is neither a .yaml file nor key=value: write remote={here}"),
    (["inspect", "--sample", "3"], "'--sample' is neither a .yaml file nor key=value: did you mean samples=3?"),
    (["inspect", "remotes=x"], "unknown key 'remotes'; did you mean 'remote'?"),
    (["inspect", "masking.ratio=0.3"], "unknown key 'masking'; did you mean 'ratio'?"),
    (["inspect", "{here}/tiny.yaml"], "is a training's yaml (key 'masking'): write training={here}/tiny.yaml"),
    (["inspect", "samples=7"], "samples=7 is not a list: write [7]"),
    (["inspect", "samples=[-1]"], "samples=-1 is too small: it must be at least 0"),
    (["inspect", "epoch=one"], "epoch=one is not a whole number"),
    (["inspect", "ratio=1.5"], "masking.ratio=1.5 is out of range"),
    (["inspect", "seed=-3"], "run.seed=-3 is out of range"),
    (["inspect", "span_length=0"], "masking.span_length=0 is too small"),
    (["inspect", "split=test"], "split='test' is not known: choose one of train, validation"),
    (["inspect", "training=nowhere.yaml"], "no configuration file at nowhere.yaml"),
    (["inspect", "html={here}"], "html={here} is a folder: name a file in it, such as {here}/samples.html"),
    (["inspect", "html={here}/tiny.yaml/page.html"], "page.html: {here}/tiny.yaml is a file; choose another folder"),
    (["inspect", "html=s3://bucket/page.html"], "html=s3://bucket/page.html is a URL: name a local file, such as"),
    (["inspect", "html={here}/tiny.yaml"], "would replace a file of another kind: choose another, such as"),
    (["inspect", "html={here}/" + "n" * 300], "cannot be written (File name too long): choose another path"),
    (["inspect", "remote=s3://key:secret@bucket/x"], "remote is a URL with a user or password in it"),
    (["verify", "workers=3"], "remote is not set: give remote=<folder or URL that data preparation wrote>"),
    (["verify", "remote=x", "workers=many"], "workers=many is not a whole number"),
    (["verify", "remote=s3://key:secret@bucket/x"], "remote is a URL with a user or password in it"),
    (["stats", "remote=x", "json={here}/tiny.yaml/a.json"], "a.json: {here}/tiny.yaml is a file; choose another"),
    (["stats", "remote=x", "picture={here}/a.gif"], "pictures are PNG; name a file that ends in .png"),
    (["report", "a", "b"], "'a' is neither a .yaml file nor key=value: write runs=a,b"),
    (["report", "html=x.html"], "runs is not set: give runs=<folder>,<folder>,..."),
    (["report", "runs={here}/none"], "there is no folder {here}/none"),
    (["report", "runs={here}"], "{here} holds no metrics.jsonl"),
    (["report", "runs=s3://bucket/run"], "runs=s3://bucket/run is a URL: copy metrics.jsonl, config.yaml and eval/"),
    (["report", "runs=s3://key:secret@bucket/run"], "runs is a URL with a user or password in it"),
    (["report", "runs=a", "html=/dev/null"], "html=/dev/null is a device or a pipe: name a file, such as report.html"),
    (["report", "runs=a", "html=x", "json=x"], "html and json are both x: name two files"),
    (["generate", "runs/1b", "Once", "upon"], "write model=runs/1b prompt='Once upon'"),
    (["generate", "prompt=x"], "model is not set: give model=<Hugging Face folder, folder of a run, or hub name>"),
    (["generate", "model=x"], 'prompt is not set: give prompt="Once upon a time"'),
    (["generate", "model=x", "prompt=y", "top_p=0.9"], "top_p=0.9 has no effect without sampling: set temperature"),
    (["env", "everything"], "'everything' is neither a .yaml file nor key=value; see --help"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(each) or "-" for each, _ in MISTAKES])
def test_a_mistake_is_answered_with_a_remedy(arguments, message, tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text("masking: {ratio: 0.1}\n")
    assert main([each.format(here=tmp_path) for each in arguments]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert message.format(here=tmp_path) in written.err
    assert "secret" not in written.err
    if len(arguments) > 1:
        assert re.fullmatch("error: [^\n]*\n", written.err)


def test_help_and_version_need_nothing_but_python(project_root):
    """In one process without any package, as in an installation that lacks them all."""
    probe = (
        "import sys\n"
        "from meap.cli import COMMANDS, main\n"
        "assert main(['--version']) == main(['--help']) == 0\n"
        "for name in COMMANDS: assert main([name, '--help']) == 0\n"
        "assert main(['inspect', 'epoch']) == 2\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", probe], cwd=project_root, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    missing = "fsspec and huggingface-hub and numpy and tenacity and tokenizers and yaml"
    remedy = "make install (or pip install meap without --no-deps where meap is installed from a wheel)"
    assert done.stderr == f"error: meap needs {missing}, which are not installed: {remedy}\n"
    for name, command in COMMANDS.items():
        assert f"\n    meap {name}" in done.stdout
        assert all(f"\n{key}=" in done.stdout for key in fields_of(command.config))


def test_what_every_installation_has_is_what_is_declared(project_root):
    declared = tomllib.loads((project_root / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[^\w-]", each)[0].replace("-", "_") for each in declared}
    assert {*_DEPENDENCIES} - {"yaml"} | {"pyyaml"} == names


@pytest.mark.parametrize("name", COMMANDS)
def test_the_configuration_is_printed_as_yaml_that_can_be_given_again(name, tmp_path, capsys):
    given = {"inspect": ["samples=[1, 2]", "ratio=0.3"], "report": ["runs=a,b"], "generate": ["prompt=it's: {so}"]}
    assert main([name, *given.get(name, []), "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed).keys() == fields_of(COMMANDS[name].config).keys()
    (tmp_path / "again.yaml").write_text(printed)
    again = load_config(COMMANDS[name].config, tmp_path / "again.yaml")
    assert again == load_config(COMMANDS[name].config, None, given.get(name, []))
    assert main([name, "--version"]) == 0
    assert capsys.readouterr().out == f"meap {meap.__version__}\n"


def test_python_runs_the_package_as_the_command_and_a_reader_may_leave(project_root):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "meap", "inspect", "--help"],
        cwd=project_root, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
def test_env_says_what_a_bug_report_needs_and_no_secret(capsys, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    assert main(["env"]) == 0
    told = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["meap"] == meap.__version__
    assert told.keys() >= {"python", "platform", "cores", "memory", "torch", "attention, packed rows", "flash-attn"}
    assert re.fullmatch(r"\d+ usable of \d+.*", told["cores"])
    assert "hunter2" not in str(told)
    assert os.path.expanduser("~") not in str(told)  # noqa: PTH111
