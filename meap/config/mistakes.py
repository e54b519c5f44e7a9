"""What was meant by a command line that makes no sense, and which command a yaml is for."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from meap.config.evaluation import EvaluationConfig
from meap.config.given import find_yaml
from meap.config.keys import config_keys, nearest_keys, unknown_keys
from meap.config.litpkds_prep import LitpkdsPrepConfig
from meap.config.loading import read_layers
from meap.config.prep import PrepConfig
from meap.config.proof import ProofConfig
from meap.config.sft_prep import SftPrepConfig
from meap.config.training import TrainingConfig
from meap.errors import ConfigError

__all__ = ["argument_error", "require_own_yaml"]

_SCRIPTS: dict[type[Any], str] = {
    PrepConfig: "dataprep/c4_to_mds.py",
    SftPrepConfig: "dataprep/sft_to_mds.py",
    LitpkdsPrepConfig: "dataprep/litpkds_to_mds.py",
    TrainingConfig: "recipes/meap_1b.py",
    EvaluationConfig: "recipes/evaluate.py",
    ProofConfig: "recipes/proof.py",
}
_RECIPES = ("meap_1b", "meap_sft")
_LAUNCHER_OPTIONS = {
    *("n", "nproc", "nproc-per-node", "nnodes", "world-size", "node-rank", "base-rank", "master-addr", "master-port"),
    *("standalone", "rdzv-backend", "rdzv-endpoint", "rdzv-id", "max-restarts"),
}


def argument_error(
    arguments: Sequence[str], at: int, config_class: type[Any], *, command: str, options: Collection[str]
) -> ConfigError:
    """The error for an argument that is neither a yaml nor an override.

    Args:
        arguments: All of them.
        at: Which one it is about.
        config_class: Whose keys there are.
        command: The entry point's name.
        options: What it takes beside yaml and overrides.
    """
    argument = arguments[at]
    if remedy := _remedy(arguments, at, config_class, command, options):
        return ConfigError(f"{argument!r} is neither a .yaml file nor section.key=value: {remedy}")
    return ConfigError(f"{argument!r} is neither a .yaml file nor section.key=value; see --help")


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
    for other, script in _SCRIPTS.items():
        if any(True for layer, _ in layers for _ in unknown_keys(other, layer)):
            continue
        start = f"python {script}"
        if other is TrainingConfig:
            start = f"composer recipes/{recipe}.py" if recipe else f"composer {script}"
        raise ConfigError(f"{path} is not for {command} (key {strange[0]!r}): run `{start} {path}`")


def _remedy(
    arguments: Sequence[str], at: int, config_class: type[Any], command: str, options: Collection[str]
) -> str | None:
    argument = arguments[at]
    following = (each for each in arguments[at + 1 : at + 3] if each != "=" and not each.startswith("-"))
    key, equals, value = argument.lstrip("-").partition("=")
    value = value or next(following, "...")
    if argument.startswith("-"):
        if key in config_keys(config_class) or (equals and "." in key):
            return f"drop the dashes, {key}={value}"
        return _remedy_of_option(argument.partition("=")[0].lower().replace("_", "-"), command, options)
    if key in config_keys(config_class):
        return f"write {key}={value}, with = and without spaces"
    if at and arguments[at - 1].endswith("="):
        return f"write {arguments[at - 1]}{argument}, without a space"
    if (meant := find_yaml(Path(f"{argument}.yaml"))) is not None:
        return f"did you mean {meant}?"
    near = nearest_keys(config_class, argument) if "." in argument else []
    return f"did you mean {near[0]}={value}?" if near else None


def _remedy_of_option(option: str, command: str, options: Collection[str]) -> str | None:
    if option.lstrip("-") in _LAUNCHER_OPTIONS and command in {*_RECIPES, "evaluate"}:
        launcher = "torchrun --nproc-per-node 8" if command == "evaluate" else "composer -n 8"
        return f"it is for the launcher, and stands before the recipe: {launcher} recipes/{command}.py ..."
    close = difflib.get_close_matches(option, options, n=1)
    return f"did you mean {close[0]}?" if close else None
