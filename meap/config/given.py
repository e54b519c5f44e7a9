"""Values as given: text with its position, which only the type of a key converts.

Yaml's own types would turn a run named 1e3 into 1000.0, yes into True, and 0012 into 10, so they are not used.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import meap
from meap.errors import ConfigError
from meap.json_text import TooLargeError, read_small

if TYPE_CHECKING:
    import yaml

__all__ = [
    "Given",
    "find_yaml",
    "given_list",
    "given_scalar",
    "given_section",
    "given_value",
    "read_given",
    "read_yaml",
]

_PROJECT = Path(meap.__file__).resolve().parent.parent
_MOST_BYTES = 1 << 22
"""Of a yaml, which takes a minute to parse at this size."""
_OWN_TAGS = "tag:yaml.org,2002:"
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_ITEM = re.compile(rf"\s*({_QUOTED.pattern}|[^,]*?)\s*(?:,|$)", re.DOTALL)


@dataclass(frozen=True)
class Given:
    """One value, or a section of them."""

    place: str
    """File, line and column, for errors; empty where key and value say enough."""
    kind: Literal["plain", "quoted", "list", "section"]
    text: str | None = None
    """What is written, without its quotes; of a list or section in braces, all of it. None: one of several lines."""
    items: tuple[Given, ...] = ()
    entries: Mapping[str, Given] = field(default_factory=dict[str, "Given"])
    is_stored: bool = False
    """Whether a run has stored it: it is resolved, and `${` means nothing in it."""

    def fails(self, message: str) -> ConfigError:
        """The error that says so, with the place."""
        return ConfigError(f"{self.place}: {message}" if self.place else message)


def read_given(path: Path, *, is_stored: bool = False) -> Given:
    """The sections of a yaml, of which only the syntax is checked.

    Args:
        path: The file.
        is_stored: Whether a run has written it.

    Raises:
        ConfigError: It is missing or malformed, has a key twice, or is not a section; with line and column.
    """
    text = _read_text(path)
    if (node := _compose(text, str(path))) is None:
        return Given(str(path), "section")
    given = _Nodes(text, str(path), is_stored=is_stored).given(node)
    if given.kind != "section":
        raise ConfigError(f"{given.place}: {path.name} must hold sections with keys, not {_name_of(given)}")
    return given


def read_yaml(path: Path) -> dict[str, Any]:
    """A yaml as other programs read it, by yaml's own types: of what `to_yaml` wrote, the values of `to_values`.

    Raises:
        ConfigError: As `read_given`.
    """
    read_given(path)
    import yaml

    return cast("dict[str, Any]", yaml.safe_load(_read_text(path)) or {})


def given_value(value: Any, place: str) -> Given:
    """What `to_values` gave, or a part of it."""
    if isinstance(value, Mapping):
        entries = {name: given_value(each, place) for name, each in cast("Mapping[str, Any]", value).items()}
        return Given(place, "section", entries=entries)
    if isinstance(value, list | tuple):
        items = tuple(given_value(each, place) for each in cast("Sequence[Any]", value))
        return Given(place, "list", str([item.text for item in items]), items)
    if isinstance(value, str):
        return Given(place, "quoted", value, is_stored=True)
    return Given(place, "plain", "null" if value is None else str(value).lower(), is_stored=True)


def given_scalar(text: str, place: str = "") -> Given:
    """A value of the command line: what is typed, or what stands between quotes around all of it."""
    if not _QUOTED.fullmatch(text):
        return Given(place, "plain", text)
    if text[0] == "'":
        return Given(place, "quoted", text[1:-1].replace("''", "'"))
    return Given(place, "quoted", cast("yaml.ScalarNode", _compose(text, f"the value {text}")).value)


def given_list(text: str) -> Given:
    """A list of the command line: ``[a,b]``, each element as `given_scalar` reads it."""
    inside = text.strip()
    if not (inside.startswith("[") and inside.endswith("]")):
        return Given("", "plain", text)
    inside = inside[1:-1].strip().removesuffix(",")
    found = [match[1] for match in _ITEM.finditer(f"{inside},")][:-1] if inside else []
    return Given("", "list", text, tuple(map(given_scalar, found)))


def given_section(text: str, name: str) -> Given:
    """A section of the command line: ``{account: physics}``."""
    node = _compose(text, name)
    return Given("", "plain", text) if node is None else _Nodes(text, name, is_stored=False).given(node)


class _Nodes:
    """Nodes of a yaml as `Given`, each once, however many aliases it has."""

    def __init__(self, text: str, name: str, *, is_stored: bool) -> None:
        self._text, self._name, self._is_stored = text, name, is_stored
        self._found: dict[int, Given | None] = {}

    def given(self, node: yaml.Node) -> Given:
        if id(node) not in self._found:
            self._found[id(node)] = None
            self._found[id(node)] = self._read(node)
        if (given := self._found[id(node)]) is None:
            raise ConfigError(
                f"{self._place(node)}: an alias (*) refers to a value that contains it: write the value out"
            )
        return given

    def _read(self, node: yaml.Node) -> Given:
        import yaml

        place = self._place(node)
        if not str(node.tag).startswith(_OWN_TAGS):
            raise ConfigError(f"{place}: {node.tag} is a yaml tag, which is not supported: put the value in quotes")
        if isinstance(node, yaml.ScalarNode):
            return Given(place, "quoted" if node.style else "plain", node.value, is_stored=self._is_stored)
        in_braces = isinstance(node, yaml.CollectionNode) and node.flow_style
        text = self._text[node.start_mark.index : node.end_mark.index] if in_braces else None
        if isinstance(node, yaml.SequenceNode):
            items = tuple(self.given(cast("yaml.Node", item)) for item in node.value)
            return Given(place, "list", text, items, is_stored=self._is_stored)
        entries = self._entries(cast("list[tuple[yaml.Node, yaml.Node]]", node.value))
        return Given(place, "section", text, entries=entries, is_stored=self._is_stored)

    def _entries(self, pairs: list[tuple[yaml.Node, yaml.Node]]) -> dict[str, Given]:
        import yaml

        entries, lines = dict[str, Given](), dict[str, int]()
        for key, value in pairs:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{self._place(key)}: the name of a key must be text, not a list or section")
            name, line = str(key.value), key.start_mark.line + 1
            if name in entries:
                raise ConfigError(
                    f"{self._place(key)}: duplicate key {name!r}, also in line {lines[name]}: remove one of the two"
                )
            entries[name], lines[name] = dataclasses.replace(self.given(value), place=self._place(key)), line
        return entries

    def _place(self, node: yaml.Node) -> str:
        return f"{self._name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _compose(text: str, name: str) -> yaml.Node | None:
    import yaml

    try:
        return cast("yaml.Node | None", cast("Any", yaml).compose(text, yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context or "?"
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name
        raise ConfigError(f"{place}: not valid yaml: {problem}{_remedy(problem)}") from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ConfigError(
            f"{name}:{line}:{column}: not valid yaml: it has a character that yaml does not allow, "
            f"{text[error.position]!a}: remove it, or write it so in double quotes"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{name} is not valid yaml: lists or sections are nested too deeply") from error


def _remedy(problem: str) -> str:
    if r"'\t'" in problem:
        return ": indent with spaces, not with tabs"
    if "undefined alias" in problem or "cannot start any token" in problem or "expected alphabetic" in problem:
        return ": put the value in quotes"
    if "mapping values are not allowed" in problem:
        return ": put a value that holds a colon and a space in quotes, and begin a key's line below its section's"
    return ""


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"no configuration file at {path}{_nearby(path)}")
    try:
        return read_small(path, most=_MOST_BYTES).decode()
    except TooLargeError as error:
        raise ConfigError(f"{path} is no configuration, since {error}: give another file") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: save it as UTF-8") from error


def find_yaml(path: Path) -> Path | None:
    """The yaml that a missing path may mean: in yamls/, here or in the project, or one with a similar name."""
    candidates = [path] if path.is_absolute() else [path, "yamls" / path, _PROJECT / path, _PROJECT / "yamls" / path]
    if there := next((each for each in candidates if each.is_file()), None):
        return there
    for folder in dict.fromkeys(each.parent for each in candidates):
        names = [other.name for other in _yamls_in(folder)]
        if close := difflib.get_close_matches(path.name, names, n=1, cutoff=0.75):
            return folder / close[0]
    return None


def _nearby(path: Path) -> str:
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    if (meant := find_yaml(path)) is not None:
        return f"{where}; did you mean {meant}?"
    others = ", ".join(map(str, _yamls_in(path.parent) + _yamls_in(path.parent / "yamls")))
    return f"{where}; there are {others}" if others else f"{where}, and no yaml beside it"


def _yamls_in(folder: Path) -> list[Path]:
    """Those of users: tools keep theirs under hidden names."""
    return sorted(path for path in folder.glob("*.yaml") if path.is_file() and not path.name.startswith("."))


def _name_of(given: Given) -> str:
    return {"list": "a list", "section": "a section"}.get(given.kind, "a value")
