"""The method: sections `masking` and `sft`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

from meap.config.checks import require_at_least, require_one_of, require_ratio, require_share_or_duration
from meap.errors import ConfigError

__all__ = ["EpochMasking", "MaskingConfig", "Replacement", "SftConfig"]

_EPOCH = re.compile(r"[1-9]\d{0,8}", re.ASCII)
_KINDS = ("mask", "random", "keep")
_SHARE = re.compile(r"\s*(\w+)\s*:\s*(\d*\.?\d+(?:e-?\d+)?)\s*", re.ASCII)


@dataclass(frozen=True)
class Replacement:
    """What chosen tokens become, as shares of them that add up to 1."""

    mask: float = 0.0
    """The mask token."""
    random: float = 0.0
    """Any ordinary token but themselves."""
    keep: float = 0.0
    """What they are."""

    @classmethod
    def parse(cls, key: str, text: str) -> Replacement:
        """Read `mask`, `random`, or shares such as ``{mask: 0.8, random: 0.1, keep: 0.1}``.

        Raises:
            ConfigError: It is none of these, or the shares do not add up to 1.
        """
        if text in {"mask", "random"}:
            return cls(**{text: 1.0})
        example = "write mask, random, or shares such as {mask: 0.8, random: 0.1, keep: 0.1}"
        if not (text.startswith("{") and text.endswith("}")):
            raise ConfigError(f"{key}={text!r} is not known: {example}")
        found = [_SHARE.fullmatch(each) for each in text[1:-1].split(",")]
        shares = {each[1]: float(each[2]) for each in found if each is not None}
        if len(shares) < len(found) or not shares.keys() <= {*_KINDS}:
            raise ConfigError(f"{key}={text} does not give each of {', '.join(_KINDS)} one share or none: {example}")
        if not math.isclose(total := math.fsum(shares.values()), 1.0, abs_tol=1e-9):
            raise ConfigError(f"{key}={text} has shares that add up to {total:g}: they must add up to 1")
        if shares.get("keep") == 1.0:
            raise ConfigError(f"{key}={text} changes nothing: lower keep, or set masking.ratio=0")
        return cls(**shares)


@dataclass(frozen=True)
class EpochMasking:
    """What changes at the beginning of an epoch."""

    ratio: float | None = None
    """`masking.ratio` from this epoch on. Unset: as before."""
    replacement: str | None = None
    """`masking.replacement` from this epoch on. Unset: as before."""


@dataclass(frozen=True)
class MaskingConfig:
    """The method: which share of the input is masked, and where the masks are written."""

    ratio: float = 0.15
    """Share of a row's input tokens (in fine-tuning: of each long answer in a copy) replaced by the mask token, in
    [0, 1); 0 is plain next-token prediction."""
    strategy: str = "random"
    """`random` masks single tokens, `span` runs of `span_length` (Table 15); the count is the same."""
    span_length: int = 5
    """Tokens per span, at least 1; only read where strategy is `span`."""
    replacement: str = "mask"
    """What chosen tokens become: `mask` (the paper); `random`: any ordinary token but themselves, never a special one;
    or a mixture by shares, such as `{mask: 0.8, random: 0.1, keep: 0.1}`. All of them count and are scored alike."""
    reversed_ratio: float = 0.0
    """Share of the rows, in [0, 1], that are read right to left behind a token that says so, which training adds to the
    vocabulary; pre-training only."""
    mask_last: bool = False
    """Whether the last input position may be masked (the official code never does)."""
    protected: tuple[str, ...] = ()
    """Tokens that are never masked, by role: any of bos, eos. The paper protects none; padding is never masked."""
    preset: str | None = None
    """`official` repeats the 51 mask patterns of the official code, the same for every row; needs site=algorithm."""
    site: str = "dataset"
    """Who masks: `dataset` (the loader's workers) or `algorithm` (the training process); the result is the same."""
    scope: str = "all"
    """`all` input tokens, or `response`: only tokens that are scored as targets; the latter needs site=algorithm."""
    schedule: str = "constant"
    """`constant`; `linear` or `cosine` go from ratio to final_ratio (not in the paper) and need site=algorithm."""
    final_ratio: float | None = None
    """Ratio at the end of the schedule and after it, in [0, 1); only with a schedule."""
    schedule_duration: str = "1dur"
    """Length of the schedule, from the start of training: 1dur, 0.5dur, 1000ba, 200000tok, 5000sp or 1ep."""
    from_epoch: dict[str, EpochMasking] = field(default_factory=dict[str, EpochMasking])
    """Other ratios and replacements from later epochs on, by the number of the first, counted from 0: `{1: {ratio:
    0.15}}` beside `ratio: 0` leaves the first epoch plain (not in the paper). At either site."""

    @property
    def tokens_per_span(self) -> int:
        """Tokens that are masked together: 1 masks single tokens."""
        return self.span_length if self.strategy == "span" else 1

    @property
    def later(self) -> list[tuple[int, MaskingConfig]]:
        """What is in force from which epoch on, where that changes; ascending."""
        found, now = list[tuple[int, MaskingConfig]](), replace(self, from_epoch={})
        for first, change in sorted(self.from_epoch.items(), key=lambda each: int(each[0])):
            ratio = now.ratio if change.ratio is None else change.ratio
            now = replace(now, ratio=ratio, replacement=change.replacement or now.replacement)
            found.append((int(first), now))
        return found

    @property
    def largest_ratio(self) -> float:
        """Over all epochs, but without a schedule of steps."""
        return max(self.ratio, *(masking.ratio for _, masking in self.later), 0.0)

    @property
    def needs_tokenizer(self) -> bool:
        """Whether rows hold tokens that others than the mask token replace: random ones, or that of the direction."""
        return bool(self.reversed_ratio or any(each.shares.random for each in (self, *dict(self.later).values())))

    @property
    def last_replacement(self) -> str:
        """That of the last epochs."""
        return [self.replacement, *(masking.replacement for _, masking in self.later)][-1]

    def in_epoch(self, epoch: int) -> MaskingConfig:
        """What is in force in an epoch, counted from 0."""
        first = replace(self, from_epoch={})
        return [first, *(masking for start, masking in self.later if start <= epoch)][-1]

    @property
    def shares(self) -> Replacement:
        """What `replacement` says."""
        return Replacement.parse("masking.replacement", self.replacement)

    def __post_init__(self) -> None:
        require_ratio("masking.ratio", self.ratio, remedy="The paper uses 0.15; 0 trains the NTP control.")
        require_one_of("masking.strategy", self.strategy, ("random", "span"))
        require_at_least("masking.span_length", self.span_length, 1)
        shares = self.shares
        if not 0.0 <= self.reversed_ratio <= 1.0:
            raise ConfigError(
                f"masking.reversed_ratio={self.reversed_ratio} is out of range: it must be in [0, 1]; 0 reads all rows "
                "left to right"
            )
        if self.reversed_ratio and self.scope == "response":
            raise ConfigError(
                f"masking.reversed_ratio={self.reversed_ratio} is for rows that are scored as a whole: set "
                "masking.scope=all, or masking.reversed_ratio=0"
            )
        for role in self.protected:
            require_one_of("masking.protected", role, ("bos", "eos"))
        require_one_of("masking.site", self.site, ("dataset", "algorithm"))
        require_one_of("masking.scope", self.scope, ("all", "response"))
        if self.scope == "response" and self.site != "algorithm":
            raise ConfigError(
                "masking.scope=response depends on the labels of a batch, but rows masked by loader workers score all "
                "tokens (in fine-tuning, they are masked in answers only): set masking.site=algorithm"
            )
        self._check_schedule()
        self._check_epochs()
        if self.preset is not None:
            require_one_of("masking.preset", self.preset, ("official",))
            if self.site != "algorithm":
                raise ConfigError(
                    "masking.preset=official masks by training step, which loader workers do not know: "
                    "set masking.site=algorithm"
                )
            if (
                self.strategy != "random"
                or shares != Replacement(mask=1.0)
                or self.reversed_ratio
                or self.mask_last
                or self.protected
                or self.scope != "all"
            ):
                raise ConfigError(
                    "masking.preset=official fixes the rule: leave masking.strategy, replacement, reversed_ratio, "
                    "mask_last, protected and scope unset"
                )

    def _check_epochs(self) -> None:
        for number, change in self.from_epoch.items():
            key = f"masking.from_epoch.{number}"
            if not _EPOCH.fullmatch(number):
                raise ConfigError(f"{key}: {number!r} is no epoch after the first: give its number, 1 or more")
            if change.ratio is None and change.replacement is None:
                raise ConfigError(f"{key} changes nothing: give its ratio or its replacement, or leave it out")
            if change.ratio is not None:
                require_ratio(f"{key}.ratio", change.ratio, remedy="The paper uses 0.15.")
            if change.replacement is not None:
                Replacement.parse(f"{key}.replacement", change.replacement)
        if self.from_epoch and (self.schedule != "constant" or self.preset is not None):
            other = f"preset={self.preset}" if self.preset is not None else f"schedule={self.schedule}"
            raise ConfigError(
                f"masking.from_epoch and masking.{other} both say what the masks are: leave one of them out"
            )

    def _check_schedule(self) -> None:
        require_one_of("masking.schedule", self.schedule, ("constant", "linear", "cosine"))
        require_share_or_duration("masking.schedule_duration", self.schedule_duration)
        if self.schedule == "constant":
            if self.final_ratio is not None:
                raise ConfigError(
                    f"masking.final_ratio={self.final_ratio} is the end of a schedule, but masking.schedule=constant: "
                    "set masking.schedule=linear or cosine, or leave masking.final_ratio unset"
                )
            return
        if self.final_ratio is None:
            raise ConfigError(
                f"masking.schedule={self.schedule} needs an end: set masking.final_ratio to a value in [0, 1)"
            )
        require_ratio("masking.final_ratio", self.final_ratio, remedy="masking.schedule=constant needs none.")
        if self.preset is not None:
            raise ConfigError(
                f"masking.preset={self.preset} fixes the ratio of a run: leave masking.schedule and final_ratio unset"
            )
        if self.site != "algorithm":
            raise ConfigError(
                f"masking.schedule={self.schedule} changes the ratio with the training step, which loader workers do "
                "not know: set masking.site=algorithm"
            )


@dataclass(frozen=True)
class SftConfig:
    """Fine-tuning only: how a conversation and its masked copy stand in a row, and which tokens are scored."""

    layout: str = "concat"
    """`concat`: the copy attends to its original, positions run on (paper); `separate`: it does not (official code)."""
    loss: str = "answer+masked"
    """`answer+masked`: answers of the original and masked tokens of the copy. `masked`: masked tokens of the copy;
    short answers, which have none, in the original."""
    weighting: str = "tokens"
    """What weighs the same in the loss: `tokens`, all scored ones of a batch (paper); `rows`, each original and each
    copy, whatever its length (official code): a masked token then weighs about 10 answer tokens."""
    min_answer_tokens: int | None = None
    """Only answers of more tokens, end of turn not counted, are masked in a copy. Unset: as prepared; may be raised,
    not lowered."""

    def __post_init__(self) -> None:
        require_one_of("sft.layout", self.layout, ("concat", "separate"))
        require_one_of("sft.loss", self.loss, ("answer+masked", "masked"))
        require_one_of("sft.weighting", self.weighting, ("tokens", "rows"))
        if self.min_answer_tokens is not None:
            require_at_least("sft.min_answer_tokens", self.min_answer_tokens, 0)
