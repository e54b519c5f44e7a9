"""The configuration of each command of the installed package: ``meap inspect``, ``meap verify`` and so on."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from meap.config.checks import require_at_least, require_one_of, require_writable_file
from meap.config.loading import load_config
from meap.config.recipe import RecipeConfig
from meap.errors import ConfigError
from meap.places.addresses import is_url, require_plain_url

__all__ = ["EnvConfig", "GenerateConfig", "InspectConfig", "ReportConfig", "StatsConfig", "VerifyConfig"]

_MASKING_KEYS = {
    "ratio": "masking.ratio",
    "strategy": "masking.strategy",
    "span_length": "masking.span_length",
    "replacement": "masking.replacement",
    "reversed_ratio": "masking.reversed_ratio",
    "seed": "run.seed",
    "layout": "sft.layout",
    "loss": "sft.loss",
}
"""Key of `InspectConfig` -> the key of a training that it replaces."""


@dataclass(frozen=True)
class InspectConfig:
    """Which samples, under which masks, and where they are shown."""

    remote: str | None = None
    """Folder or URL (s3://, ...) that data preparation wrote. Unset: data.remote of `training`."""
    training: str | None = None
    """Training yaml whose masking, sft and run.seed decide the masks. Unset: the defaults of training."""
    split: str = "train"
    """`train` or `validation`."""
    epoch: int = 0
    """Epoch whose masks are shown; at least 0."""
    samples: tuple[int, ...] = ()
    """Ids of the rows to show, such as [7, 70000]; at least 0. Empty: the first `count`."""
    count: int = 3
    """Rows to show where `samples` is empty; at least 0."""
    ratio: float | None = None
    """Share of tokens to mask, in [0, 1). Unset: masking.ratio of training; nothing in validation, as in a run."""
    strategy: str | None = None
    """`random` or `span`. Unset: masking.strategy of training, or `span` where `span_length` is set."""
    span_length: int | None = None
    """Tokens per span, at least 1. Unset: masking.span_length of training."""
    replacement: str | None = None
    """`mask`, `random`, or shares such as {mask: 0.8, random: 0.1, keep: 0.1}. Unset: masking.replacement of
    training."""
    reversed_ratio: float | None = None
    """Share of the rows that are read right to left, in [0, 1]. Unset: masking.reversed_ratio of training."""
    seed: int | None = None
    """Seed of the masks. Unset: run.seed of training."""
    layout: str | None = None
    """Fine-tuning shards only: `concat` or `separate`. Unset: sft.layout of training."""
    loss: str | None = None
    """Fine-tuning shards only: `answer+masked` or `masked`. Unset: sft.loss of training."""
    html: str | None = None
    """HTML page to write, with these samples and statistics."""
    stats_shards: int = 0
    """Shards to read for the statistics of the page, in addition to those of the samples; at least 0."""
    cache_dir: str | None = None
    """Folder that keeps downloaded shards. Unset: a temporary one."""
    color: str = "auto"
    """`always`, `never`, or `auto`: on a terminal, unless NO_COLOR is set."""

    def __post_init__(self) -> None:
        require_one_of("split", self.split, ("train", "validation"))
        require_at_least("epoch", self.epoch, 0)
        for sample in self.samples:
            require_at_least("samples", sample, 0)
        require_at_least("count", self.count, 0)
        require_at_least("stats_shards", self.stats_shards, 0)
        require_one_of("color", self.color, ("always", "auto", "never"))

    @property
    def sft_keys(self) -> list[str]:
        """Keys that were set and apply to fine-tuning shards only."""
        return [name for name in ("layout", "loss") if getattr(self, name) is not None]

    def resolve_training(self) -> RecipeConfig:
        """The training whose samples are shown: that of `training`, or the defaults, with what is set here.

        Raises:
            ConfigError: The yaml cannot be read, a value is out of range, or no sample has masks of its own.
        """
        strategy = self.strategy or (None if self.span_length is None else "span")
        given = {key: getattr(replace(self, strategy=strategy), name) for name, key in _MASKING_KEYS.items()}
        overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
        config = load_config(RecipeConfig, self.training, overrides)
        if config.masking.preset is not None:
            raise ConfigError(
                f"masking.preset={config.masking.preset} masks by training step, so no sample has masks of its own: "
                "leave out training=, or set the preset to null in that yaml"
            )
        if self.ratio is not None or self.replacement is not None:  # in whichever epoch
            config = replace(config, masking=replace(config.masking, from_epoch={}))
        if self.split == "train" or self.ratio is not None:
            return config
        # A run never masks held-out rows.
        return replace(config, masking=replace(config.masking, ratio=0.0, reversed_ratio=0.0, from_epoch={}))

    def resolve_remote(self) -> str:
        """Where the data is: `remote`, or what the training reads.

        Raises:
            ConfigError: The training mixes several data sets.
        """
        data = self.resolve_training().data
        if self.remote is None and data.streams:
            choices = " or ".join(f"remote={stream.remote}" for stream in data.streams.values())
            raise ConfigError(f"training={self.training} mixes {len(data.streams)} data sets: choose {choices}")
        return (self.remote or data.remote).rstrip("/") or "/"

    def check(self) -> None:
        """Raise `ConfigError` for errors in the configuration alone."""
        require_plain_url("remote", self.resolve_remote())
        require_writable_file("html", self.html, example="samples.html")


@dataclass(frozen=True)
class VerifyConfig:
    """Which data is verified, and how many shards at once."""

    remote: str | None = None
    """Folder or URL (s3://, ...) that data preparation wrote: of a data set, of one split, or of several data sets."""
    workers: int = 0
    """Shards that are read at the same time; 0 uses every core."""

    def __post_init__(self) -> None:
        require_at_least("workers", self.workers, 0)

    @property
    def num_workers(self) -> int:
        """Shards that are read at the same time."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return self.workers or cores or 1

    def require_remote(self) -> str:
        """Where the data is.

        Raises:
            ConfigError: `remote` is not set.
        """
        if self.remote is None:
            raise ConfigError("remote is not set: give remote=<folder or URL that data preparation wrote>")
        return self.remote.rstrip("/") or "/"

    def check(self) -> None:
        """Raise `ConfigError` for errors in the configuration alone."""
        require_plain_url("remote", self.require_remote())


@dataclass(frozen=True)
class StatsConfig(VerifyConfig):
    """Which data is counted, and where the numbers go."""

    top: int = 20
    """Tokens and sources to list; at least 0."""
    ngrams: bool = False
    """Whether to also measure the share of 13-grams that occur more than once."""
    json: str | None = None
    """JSON file to write, with all numbers."""
    picture: str | None = None
    """PNG file to write."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("top", self.top, 0)
        if self.picture is not None and not self.picture.endswith(".png"):
            raise ConfigError(f"picture={self.picture}: pictures are PNG; name a file that ends in .png")

    def check(self) -> None:
        """Raise `ConfigError` for errors in the configuration alone."""
        super().check()
        require_writable_file("json", self.json, example="stats.json")
        require_writable_file("picture", self.picture, example="stats.png")


@dataclass(frozen=True)
class ReportConfig:
    """Which runs are compared, and where the comparison goes."""

    runs: str | None = None
    """Folders of runs, separated by commas, such as runs/1b,runs/1b_ntp; the others are compared with the first."""
    html: str | None = None
    """HTML page to write, which opens offline."""
    json: str | None = None
    """JSON file to write, with all numbers."""

    def __post_init__(self) -> None:
        if self.html is not None and self.html == self.json:
            raise ConfigError(f"html and json are both {self.html}: name two files")

    @property
    def folders(self) -> list[str]:
        """The folders, in order."""
        return [folder.strip() for folder in (self.runs or "").split(",") if folder.strip()]

    def check(self) -> None:
        """Raise `ConfigError` for errors in the configuration alone."""
        if not self.folders:
            raise ConfigError("runs is not set: give runs=<folder>,<folder>,...")
        for folder in self.folders:
            require_plain_url("runs", folder)
            if is_url(folder):
                raise ConfigError(
                    f"runs={folder} is a URL: copy metrics.jsonl, config.yaml and eval/ of the run to a local folder"
                )
        require_writable_file("html", self.html, example="report.html")
        require_writable_file("json", self.json, example="report.json")


@dataclass(frozen=True)
class GenerateConfig:
    """Which model continues which prompt, and how tokens are chosen."""

    model: str | None = None
    """Hugging Face folder, the folder of an exported run, or a name on the hub."""
    prompt: str | None = None
    """Text to continue; in a chat, what the user says."""
    chat: str = "auto"
    """Whether the prompt is rendered by the model's chat template: `true`, `false`, or `auto` (if it has one, unless it
    is an export that was trained on text alone)."""
    system: str | None = None
    """System message of the chat."""
    max_new_tokens: int = 256
    """Most tokens to generate, at least 1; what ends answers, and the model's context, may end the text earlier."""
    temperature: float = 0.0
    """0 takes the most likely token (greedy); above 0, tokens are sampled from softmax(logits / temperature)."""
    top_p: float = 1.0
    """Nucleus sampling: the share of the probability that tokens are sampled from, in (0, 1]. Needs a temperature."""
    seed: int = 0
    """Seed of sampling; at least 0."""
    add_bos: bool = True
    """Whether a prompt outside a chat begins as the tokenizer begins a text, which is with BOS for many models."""

    def __post_init__(self) -> None:
        require_one_of("chat", self.chat, ("auto", "true", "false"))
        require_at_least("max_new_tokens", self.max_new_tokens, 1)
        require_at_least("temperature", self.temperature, 0)
        require_at_least("seed", self.seed, 0)
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p} is out of range: it must be in (0, 1]; 1 samples from all tokens")
        if self.top_p < 1 and not self.temperature:
            raise ConfigError(f"top_p={self.top_p} has no effect without sampling: set temperature, such as 0.8")
        if self.system is not None and self.chat == "false":
            raise ConfigError("system is the system message of a chat, but chat=false: leave one of them out")

    def check(self) -> None:
        """Raise `ConfigError` for errors in the configuration alone."""
        if self.model is None:
            raise ConfigError("model is not set: give model=<Hugging Face folder, folder of a run, or hub name>")
        if is_url(self.model):
            raise ConfigError(f"model={self.model} is a URL: give a local folder, or a name on the hub")
        if self.prompt is None:
            raise ConfigError('prompt is not set: give prompt="Once upon a time"')


@dataclass(frozen=True)
class EnvConfig:
    """No keys."""
