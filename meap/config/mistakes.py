"""Errors for arguments that cannot be read, and for yamls of another command."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from meap.config.evaluation import EvaluationConfig
from meap.config.given import find_yaml
from meap.config.keys import config_keys, fields_of, is_section, nearest_keys, unknown_keys
from meap.config.loading import read_layers
from meap.config.prep import LitpkdsPrepConfig, PrepConfig, SftPrepConfig
from meap.config.recipe import RecipeConfig
from meap.errors import ConfigError

__all__ = ["argument_error", "grammar_of", "require_own_yaml"]

_SCRIPTS: dict[type[Any], str] = {
    PrepConfig: "dataprep/c4_to_mds.py",
    SftPrepConfig: "dataprep/sft_to_mds.py",
    LitpkdsPrepConfig: "dataprep/litpkds_to_mds.py",
    RecipeConfig: "recipes/meap_1b.py",
    EvaluationConfig: "recipes/evaluate.py",
}
_RECIPES = ("meap_1b", "meap_sft")
_LAUNCHER_OPTIONS = {
    *("n", "nproc", "nproc-per-node", "nnodes", "world-size", "node-rank", "base-rank", "master-addr", "master-port"),
    *("standalone", "rdzv-backend", "rdzv-endpoint", "rdzv-id", "max-restarts"),
}


def argument_error(
    arguments: Sequence[str],
    at: int,
    config_class: type[Any],
    *,
    command: str,
    options: Collection[str],
    subjects: Sequence[str] = (),
) -> ConfigError:
    """The error for an argument that is neither a yaml nor an override.

    Args:
        arguments: All of them.
        at: Index of the argument in question.
        config_class: Class of the configuration.
        command: The entry point's name.
        options: Options that it takes beside yaml and overrides.
        subjects: Keys that values without a key may be meant for, in order.
    """
    argument = arguments[at]
    what = f"{argument!r} is neither a .yaml file nor {grammar_of(config_class)}"
    remedy = _remedy(arguments, at, config_class, command, options, subjects)
    return ConfigError(f"{what}: {remedy}" if remedy else f"{what}; see --help")


def grammar_of(config_class: type[Any]) -> str:
    """How a key and its value are written."""
    return "section.key=value" if any(map(is_section, fields_of(config_class).values())) else "key=value"


def require_own_yaml(path: Path, config_class: type[Any], *, command: str) -> None:
    """Raise unless a yaml is for this command.

    Raises:
        ConfigError: It names another recipe, or has keys of another command; or `read_layers` fails.
    """
    layers = read_layers(path)
    recipe = next((name for _, name in reversed(layers) if name), None)
    if recipe is not None and recipe not in _RECIPES:
        raise ConfigError(f"{path}: recipe={recipe!r} is not known: choose one of {', '.join(_RECIPES)}")
    if recipe is not None and command in _RECIPES and recipe != command:
        raise ConfigError(
            f"{path} is for recipes/{recipe}.py, not for {command}: run `composer recipes/{recipe}.py {path}`"
        )
    strange = [key for layer, _ in layers for key, _ in unknown_keys(config_class, layer)]
    if not strange:
        return
    if "training" in fields_of(config_class) and not any(
        True for layer, _ in layers for _ in unknown_keys(RecipeConfig, layer)
    ):
        raise ConfigError(f"{path} is a training's yaml (key {strange[0]!r}): write training={path}")
    for other, script in _SCRIPTS.items():
        if any(True for layer, _ in layers for _ in unknown_keys(other, layer)):
            continue
        start = f"python {script}"
        if other is RecipeConfig:
            start = f"composer recipes/{recipe}.py" if recipe else f"composer {script}"
        raise ConfigError(f"{path} is not for {command} (key {strange[0]!r}): run `{start} {path}`")


def _remedy(
    arguments: Sequence[str],
    at: int,
    config_class: type[Any],
    command: str,
    options: Collection[str],
    subjects: Sequence[str],
) -> str | None:
    """What the argument may mean, by itself and by its neighbours."""
    argument = arguments[at]
    following = (each for each in arguments[at + 1 : at + 3] if each != "=" and not each.startswith("-"))
    key, _, value = argument.lstrip("-").partition("=")
    value = value or next(following, "...")
    if argument.startswith("-"):
        return _remedy_of_option(argument, value, config_class, command, options)
    if key in config_keys(config_class):
        return f"write {key}={value}, with = and without spaces"
    if at and arguments[at - 1].endswith("="):
        return f"write {arguments[at - 1]}{argument}, without a space"
    if subjects:
        return _with_keys([each for each in arguments if "=" not in each and not each.startswith("-")], subjects)
    if (meant := find_yaml(Path(f"{argument}.yaml"))) is not None:
        return f"did you mean {meant}?"
    return _nearest(config_class, argument, value) if "." in argument else None


def _nearest(config_class: type[Any], key: str, value: str) -> str | None:
    near = nearest_keys(config_class, key)
    return f"did you mean {near[0]}={value}?" if near else None


def _with_keys(values: Sequence[str], subjects: Sequence[str]) -> str:
    """The values with the keys they are for; the last key takes all that remain, as a list or as words of a text."""
    first, rest = values[: len(subjects) - 1], values[len(subjects) - 1 :]
    joined = [(" " if first else ",").join(rest)] if rest else []
    return "write " + " ".join(
        f"{key}={shlex.quote(value)}" for key, value in zip(subjects, [*first, *joined], strict=False)
    )


def _remedy_of_option(
    argument: str, value: str, config_class: type[Any], command: str, options: Collection[str]
) -> str | None:
    key, equals, _ = argument.lstrip("-").partition("=")
    if key in config_keys(config_class) or (equals and "." in key):
        return f"drop the dashes, {key}={value}"
    option = argument.partition("=")[0].lower().replace("_", "-")
    if option.lstrip("-") in _LAUNCHER_OPTIONS and command in {*_RECIPES, "evaluate"}:
        launcher = "torchrun --nproc-per-node 8" if command == "evaluate" else "composer -n 8"
        return f"it is an option of the launcher and goes before the recipe: {launcher} recipes/{command}.py ..."
    close = difflib.get_close_matches(option, options, n=1)
    return f"did you mean {close[0]}?" if close else _nearest(config_class, key.replace("-", "_"), value)
