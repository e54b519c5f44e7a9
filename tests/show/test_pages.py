"""Templates escape, name what they lack, and are part of the wheel; files are written whole."""

import fnmatch
import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import meap.show
from meap.errors import DataError
from meap.places.whole import write_named
from meap.show.pages import render

FOLDER = Path(meap.show.__file__).parent


def test_values_are_escaped_and_a_missing_one_is_an_error():
    assert "&lt;script&gt;" in render("page.html", title="<script>")
    with pytest.raises(UndefinedError, match="title"):
        render("page.html")


def test_the_wheel_contains_every_file_that_is_not_code(project_root):
    setuptools = tomllib.loads((project_root / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = setuptools["package-data"]["meap.show"]
    data = [path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()]
    data = [path for path in data if "__pycache__" not in path and not path.endswith(".py")]
    assert {"style.css", "templates/page.html", "templates/strips.svg"} <= set(data)
    for path in data:
        assert any(fnmatch.fnmatch(path, pattern) for pattern in patterns), f"{path} is not in package-data"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "page.html"
    target.write_text("old")
    write_named("html", target, "new \ud800")
    assert target.read_text(encoding="utf-8") == "new \\ud800"
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(DataError, match=r"html=.*taken.html cannot be written \(.*\): choose another path"):
        write_named("html", tmp_path / "taken.html", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "taken.html"]
