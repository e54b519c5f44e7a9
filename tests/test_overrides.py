"""Why each bound of Composer's and streaming's metadata is lifted, checked against what is installed.

A reason that no longer holds fails here: the override can then go from pyproject.toml.
"""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = {
    requirement.name: requirement
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["override-dependencies"]
    for requirement in [Requirement(line)]
}
LIFTED = [name for name, override in OVERRIDES.items() if override.marker is None and name != "gql"]
LEFT_OUT = [name for name, override in OVERRIDES.items() if override.marker is not None]
GIVEN = {"pip"}  # every environment has it
STALE = ("mosaicml", "mosaicml-streaming", "mosaicml-cli")


def locked() -> set[str]:
    """The packages of both locks, by their canonical names."""
    text = "".join((ROOT / name).read_text() for name in ("requirements.lock", "requirements-dev.lock"))
    return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))


def wishes(name: str) -> Iterator[tuple[str, Requirement]]:
    """What these distributions ask of a package, without their extras."""
    for distribution in STALE:
        for line in metadata.requires(distribution) or []:
            requirement = Requirement(line)
            if requirement.name == name and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                yield distribution, requirement


@pytest.mark.parametrize("name", LIFTED)
def test_a_lifted_bound_still_refuses_what_is_installed(name):
    installed = metadata.version(name)
    assert OVERRIDES[name].specifier.contains(installed)
    refused = [distribution for distribution, wish in wishes(name) if not wish.specifier.contains(installed)]
    assert refused, f"nothing refuses {name} {installed} any more: take the override out of pyproject.toml"


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_asked_for_and_not_there(name):
    assert [*wishes(name)], f"nothing asks for {name} any more: take the override out of pyproject.toml"
    assert name not in locked()


def test_the_locks_have_all_that_their_packages_ask_for():
    """Both are installed without looking at dependencies: what is missing is met by whoever first imports it."""
    missing = {}
    for name in sorted(locked()):
        try:
            wished = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue  # of another platform or Python
        wished = [wish for wish in wished if wish.marker is None or wish.marker.evaluate({"extra": ""})]
        names = {canonicalize_name(wish.name) for wish in wished}
        missing |= dict.fromkeys(names - locked() - set(LEFT_OUT) - GIVEN, name)
    assert not missing


def test_gql_4_would_bring_websockets_that_composers_command_line_warns_of():
    assert metadata.version("gql").startswith("3.")
    sources = [path.read_text("utf-8") for path in metadata.files("mosaicml-cli") or [] if path.suffix == ".py"]
    assert any(re.search(r"from websockets\.exceptions import .*InvalidStatusCode", source) for source in sources)


def test_composer_and_streaming_are_the_versions_for_which_all_of_this_was_looked_at():
    assert [metadata.version(name) for name in STALE] == ["0.32.1", "0.13.0", "0.7.3"]
