"""What a file of others may say, and that every reader of JSON has met it."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from meap.json_text import parse_json, require_types


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "{", b"\xff", "", "9" * 5000])
def test_what_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)


def test_nobody_reads_json_in_another_way(project_root):
    """Deep nesting would end a command with a traceback."""
    others = [
        path for path in (project_root / "meap").rglob("*.py") if re.search(r"\bjson\.loads?\(", path.read_text())
    ]
    assert [str(path.relative_to(project_root / "meap")) for path in others if path.name != "words.py"] == [
        "json_text.py"
    ]


@dataclass
class Inner:
    name: str = "a"


@dataclass
class Outer:
    count: int = 3
    ratio: float = 0.5
    inner: Inner = field(default_factory=Inner)
    kind: Literal["full", "half"] = "full"
    maybe: int | None = None
    several: tuple[int, ...] = (1, 2)
    by_name: dict[str, int] = field(default_factory=lambda: {"a": 1})
    anything: Any = None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("count", each) for each in ("3", -1, 1 << 70, True, None, 1.0, [])),
        *(("ratio", each) for each in ("x", float("nan"), float("inf"), None)),
        *(("inner", each) for each in ({}, Inner(3))),  # pyright: ignore[reportArgumentType]
        *(("kind", each) for each in ("quarter", 1)),
        *(("maybe", each) for each in ("", -1)),
        *(("several", each) for each in (3, "12", [1], (1, "2"))),
        *(("by_name", each) for each in ([], {"a": "1"}, {1: 1})),
    ],
)
def test_a_field_that_is_something_else_is_named(name, value):
    require_types(Outer())
    with pytest.raises(TypeError, match=f"{'name' if isinstance(value, Inner) else name} is "):
        require_types(Outer(**{name: value}))
