"""`meap inspect` as a user runs it: what it shows, what it keeps, what it leaves behind."""

import re
import subprocess

import pytest

from meap.cli import main

LOADING = "meap inspect: loading torch and streaming ...\n"


def test_the_first_rows_are_shown_and_the_data_is_left_as_it_was(rows_remote, tmp_path, capsys):
    before = sorted(rows_remote.rglob("*"))
    page = tmp_path / "page.html"
    assert main(["inspect", f"remote={rows_remote}/", f"html={page}"]) == 0
    shown = capsys.readouterr()
    assert re.findall("^── sample (\\d+), epoch 0", shown.out, re.MULTILINE) == ["0", "1", "2"]
    assert shown.err == LOADING
    assert page.read_text(encoding="utf-8").count("<pre>") == 3
    assert sorted(rows_remote.rglob("*")) == before


def test_samples_can_be_named(sft_remote, capsys):
    assert main(["inspect", f"remote={sft_remote}", "samples=[7, 2]", "epoch=1"]) == 0
    assert re.findall("^── sample (\\d+), epoch 1", capsys.readouterr().out, re.MULTILINE) == ["7", "2"]
    assert main(["inspect", f"remote={sft_remote}", "count=1"]) == 0
    assert re.findall("^── sample (\\d+), epoch 0", capsys.readouterr().out, re.MULTILINE) == ["0"]


def test_a_folder_for_shards_is_kept_but_never_the_data_itself(rows_remote, tmp_path, capsys):
    assert main(["inspect", f"remote={rows_remote}", f"cache_dir={tmp_path / 'kept'}"]) == 0
    assert len(list((tmp_path / "kept" / "train").glob("*.mds"))) == 1
    assert main(["inspect", f"remote={rows_remote}", f"cache_dir={rows_remote}"]) == 2
    assert "choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["remote={rows}", "samples=[9999]"], 2, "samples=[9999] is out of range: the train split has"),
        (["remote={rows}", "layout=concat"], 2, "layout: {rows} holds rows, not conversations for fine-tuning; leave"),
        (["remote={rows}/nothing"], 1, "remote={rows}/nothing is not there: run dataprep"),
    ],
)
def test_what_the_data_contradicts_is_one_line(arguments, status, message, rows_remote, capsys):
    assert main(["inspect", *(each.format(rows=rows_remote) for each in arguments)]) == status
    written = capsys.readouterr()
    assert written.out == ""
    assert re.fullmatch("error: [^\n]*\n", written.err.removeprefix(LOADING))
    assert message.format(rows=rows_remote) in written.err


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_ends_it_quietly(
    rows_remote, project_root, warm_python, quiet_environment, tmp_path
):
    process = subprocess.Popen(
        [warm_python, "-m", "meap", "inspect", f"remote={rows_remote}", "count=100", f"html={tmp_path}/a.html"],
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
    assert error == LOADING
    assert (tmp_path / "a.html").is_file()
    assert not list(tmp_path.glob("meap-inspect-*"))
