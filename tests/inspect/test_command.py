"""The command as a user runs it: mistakes are one line, help is quick, nothing is left behind."""

import re
import subprocess
import sys

import pytest

from meap.inspect.__main__ import main


def test_the_first_rows_are_shown_and_the_data_is_left_as_it_was(rows_remote, tmp_path, capsys):
    before = sorted(rows_remote.rglob("*"))
    page = tmp_path / "page.html"
    assert main([str(rows_remote), "--html", str(page)]) == 0
    shown = capsys.readouterr()
    assert re.findall("^── sample (\\d+), epoch 0", shown.out, re.MULTILINE) == ["0", "1", "2"]
    assert shown.err == "meap.inspect: loading torch and streaming ...\n"
    assert page.read_text(encoding="utf-8").count("<pre>") == 3
    assert sorted(rows_remote.rglob("*")) == before


def test_samples_can_be_named(sft_remote, capsys):
    assert main([str(sft_remote), "--sample", "7", "--sample", "2", "--epoch", "1"]) == 0
    assert re.findall("^── sample (\\d+), epoch 1", capsys.readouterr().out, re.MULTILINE) == ["7", "2"]
    assert main([str(sft_remote), "--count", "1"]) == 0
    assert re.findall("^── sample (\\d+), epoch 0", capsys.readouterr().out, re.MULTILINE) == ["0"]


def test_a_folder_for_shards_is_kept_but_never_the_data_itself(rows_remote, tmp_path, capsys):
    assert main([str(rows_remote), "--cache-dir", str(tmp_path / "kept")]) == 0
    assert len(list((tmp_path / "kept" / "train").glob("*.mds"))) == 1
    assert main([str(rows_remote), "--cache-dir", str(rows_remote)]) == 2
    assert "choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "the following arguments are required: shards; see python -m meap.inspect --help"),
        (["{rows}", "--sample", "-1"], 2, "'-1' is not a whole number of at least 0"),
        (["{rows}", "--sample", "9999"], 2, "--sample 9999 is out of range: the train split has"),
        (["{rows}", "--epoch", "one"], 2, "'one' is not a whole number of at least 0"),
        (["{rows}", "--ratio", "1.5"], 2, "masking.ratio=1.5 is out of range"),
        (["{rows}", "--seed", "-3"], 2, "run.seed=-3 is out of range"),
        (["{rows}", "--span-length", "0"], 2, "masking.span_length=0 is too small"),
        (["{rows}", "--layout", "concat"], 2, "--layout: {rows} holds rows, not conversations"),
        (["{rows}", "--split", "test"], 2, "invalid choice: 'test'"),
        (["{rows}", "--config", "nowhere.yaml"], 2, "no configuration file at nowhere.yaml"),
        (["{rows}", "--html", "{rows}"], 2, "--html {rows} is a folder: name a file in it"),
        (["{rows}", "--html", "{rows}/no/page.html"], 2, "there is no folder {rows}/no; create it first"),
        (["{rows}/nothing"], 1, "<shards>={rows}/nothing holds no finished 'train' split"),
        (["s3://key:secret@bucket/x"], 2, "<shards> is a URL with a user or password in it"),
    ],
)
def test_a_mistake_is_one_line(arguments, status, message, rows_remote, capsys):
    assert main([each.format(rows=rows_remote) for each in arguments]) == status
    written = capsys.readouterr()
    assert written.out == ""
    error = written.err.removeprefix("meap.inspect: loading torch and streaming ...\n")
    assert re.fullmatch("error: [^\n]*\n", error)
    assert message.format(rows=rows_remote) in written.err
    assert "secret" not in written.err


def test_help_and_mistakes_need_no_heavy_library(project_root):
    probe = (
        "import sys\n"
        "from meap.inspect.__main__ import main\n"
        "assert main(['x', '--epoch', 'y']) == 2\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'streaming', 'transformers', 'datatrove', 'composer', 'fsspec'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", probe], cwd=project_root, capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.returncode == 0, finished.stderr
    assert "python -m meap.inspect" in finished.stdout


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_it_quietly(
    rows_remote, project_root, warm_python, quiet_environment, tmp_path
):
    process = subprocess.Popen(
        [warm_python, "-m", "meap.inspect", str(rows_remote), "--count", "100", "--html", str(tmp_path / "a.html")],
        cwd=project_root,
        env=quiet_environment | {"PYTHONPATH": str(project_root), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # before a single line, let alone a buffer full
    error = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=120) == 141  # as a shell shows it
    assert error == "meap.inspect: loading torch and streaming ...\n"
    assert (tmp_path / "a.html").is_file()
    assert not list(tmp_path.glob("meap-inspect-*"))
