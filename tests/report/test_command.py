"""`meap report` as a user runs it, and the page it writes."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from meap.cli import main
from tests.pages import whole_page

from .conftest import metric_lines


@pytest.fixture
def runs(make_run):
    return f"runs={make_run('a', 'masking.ratio=0', loss=1.2)},{make_run('b', loss=1.1)}"


def test_figures_are_printed_and_a_page_and_numbers_are_written(runs, tmp_path, capsys):
    page, numbers = tmp_path / "report.html", tmp_path / "report.json"
    assert main(["report", runs, f"html={page}", f"json={numbers}"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "These runs differ in masking.ratio alone." in shown.out
    values = json.loads(numbers.read_text())
    assert values["settings"]["differing"]["masking.ratio"] == {"a": 0.0, "b": 0.15}
    assert values["evaluations"][0]["values"]["b"]["value"] == 1.1
    assert values["curves"]["heldout_loss"]["a"]["steps"] == [50, 100, 150, 200]
    last = values["figures"]["held-out loss, the last"]["a"]
    assert f"{last:.4f}" in shown.out
    assert f"{last:.4f}" in page.read_text(encoding="utf-8")


def test_the_page_needs_nothing_else_and_is_well_formed(runs, tmp_path):
    page = tmp_path / "report.html"
    assert main(["report", runs, f"html={page}"]) == 0
    text = page.read_text(encoding="utf-8")
    whole_page(text)
    drawn = re.findall(r"<figure>.*?</figure>", text)
    assert len(drawn) >= 3 * 7
    for figure in drawn:
        ET.fromstring(figure)
    assert not re.findall(r"\b(nan|inf)\b", " ".join(drawn))
    # Every switch has a label, and every label a switch.
    assert set(re.findall(r'<input [^>]*id="([^"]+)"', text)) == set(re.findall(r'<label [^>]*for="([^"]+)"', text))


def test_the_page_shows_answers_of_the_newest_step_first_and_as_text(make_run, tmp_path):
    folder, page = make_run("a"), tmp_path / "page.html"
    steps = range(5, 200, 5)
    lines = [
        {"step": step, "row": 0, "prompt": "<b>why\x1b?", "answer": f"<i>{step}", "expected": "so"} for step in steps
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["report", f"runs={folder}", f"html={page}", f"json={tmp_path / 'a.json'}"]) == 0
    text = page.read_text(encoding="utf-8")
    whole_page(text)
    assert "&lt;b&gt;why\\x1b?" in text
    shown = [int(step) for step in re.findall(r"&lt;i&gt;(\d+)", text)]
    assert shown == sorted(shown, reverse=True)
    assert (shown[0], shown[-1], len(shown)) == (195, 5, 10)
    assert json.loads((tmp_path / "a.json").read_text())["runs"]["a"]["samples"]["195"][0]["answer"] == "<i>195"


def test_names_and_settings_are_text(make_run, tmp_path):
    a = make_run("<b onload=x>&", "model.base=<script>alert(1)</script>")
    b = make_run("</style><script>")
    (b / "eval" / "<i>").mkdir(parents=True)
    (b / "eval" / "<i>" / "results.json").write_text("{}")
    (b / "versions.json").write_text('{"<i>": "</td><i>"}')
    (b / "starts.jsonl").write_text('{"<i>": "<i>"}\n')
    page = tmp_path / "page.html"
    assert main(["report", f"runs={a},{b}", f"html={page}"]) == 0
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"<script|<i>|<b ", text)
    assert text.count("</style>") == 1


def test_many_steps_stay_small_and_a_spike_of_one_step_is_drawn(make_run, tmp_path):
    lines = metric_lines(20_000)
    spike = next(line for line in lines if line["step"] == 12_345)
    spike["loss/train/total"] = 2.5
    page = tmp_path / "page.html"
    assert main(["report", f"runs={make_run('a', lines=lines)}", f"html={page}"]) == 0
    assert page.stat().st_size < 700_000
    raw = re.findall(r'class="raw r0"><path d="M([^"]+)"', page.read_text())[0]
    points = [tuple(map(float, point.split())) for point in re.split("[LM]", raw)]
    after_start = [point for point in points if point[0] > 230]
    highest = min(after_start, key=lambda point: point[1])
    # The axis ends a hundredth beyond the last step.
    assert highest[0] == pytest.approx(480 * (0.12 + 0.865 * 12_345 / 20_000 / 1.01), abs=0.5)


def test_later_starts_are_marked_and_told_by_what_they_changed(make_run, tmp_path):
    folder = make_run("a")
    packages = {"packages": {"torch": "2.7.0"}}
    starts = [{"from_step": 0, "world_size": 8} | packages, {"from_step": 90, "world_size": 4} | packages]
    (folder / "versions.json").write_text(json.dumps({"world_size": 8} | packages))
    (folder / "starts.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts))
    page = tmp_path / "page.html"
    assert main(["report", f"runs={folder}", f"html={page}"]) == 0
    text = page.read_text(encoding="utf-8")
    places = {*map(float, re.findall(r'class="mark r0"><path d="M([0-9.]+) ', text))}
    assert min(places) == max(places) == pytest.approx(480 * (0.12 + 0.865 * 90 / 200 / 1.01), abs=0.1)
    told = text.split("starts of a</summary>")[1]
    assert re.findall("<th>(.*?)</th>", told) == ["from_step", "world_size"]


def test_a_page_that_cannot_be_written_is_said_and_nothing_is_left(runs, tmp_path, capsys):
    name = "x" * 250 + ".html"  # too long beside the marks of a file that is being written
    assert main(["report", runs, f"html={tmp_path / name}"]) == 1
    assert re.match(r"error: html=.* cannot be written .*: choose another path\n", capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_a_run_of_one_step_and_metrics_of_one_value_are_drawn(make_run, tmp_path):
    lines = [{"step": 1, "loss/train/total": 3.0, "heldout/loss": 2.0, "masking/ratio": 0.0}]
    page = tmp_path / "page.html"
    assert main(["report", f"runs={make_run('a', lines=lines)}", f"html={page}"]) == 0
    assert "<use " in page.read_text()
