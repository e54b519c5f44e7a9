"""Settings, drawn key by key from the configuration itself: a new key is drawn without a word here.

What a key may hold follows from its type, its default and the words that its help quotes; a value counts if the
configuration accepts it. `LEFT_OUT` names the keys that are not drawn, and why.
"""

import re
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any, get_args, get_origin

from meap.config import PrepConfig, RecipeConfig, SftPrepConfig, load_config
from meap.config.command import describe_keys
from meap.config.keys import config_keys, hint_at, is_section
from meap.errors import ConfigError

SEQ_LEN, ROWS_OF_BATCH, STEPS = 256, 8, 14

SMALL = {
    "data.seq_len": SEQ_LEN,
    "model.hidden_size": 16,
    "model.intermediate_size": 32,
    "model.num_attention_heads": 2,
    "model.num_key_value_heads": 1,
    "model.num_hidden_layers": 2,
    "train.max_duration": f"{STEPS}ba",
    "train.global_batch_size": ROWS_OF_BATCH,
    "data.download_patience": "10",
    "train.log_interval": "2ba",
    "train.eval_interval": "6ba",
    "train.sample_tokens": 4,
    "checkpoint.interval": "5ba",  # most epochs have ten steps: one ends where an epoch does
}
"""Of every run, so that it takes seconds; all else has its default, unless drawn."""

LEFT_OUT = {
    "run": "a journey names its runs",
    "tokenizer": "a journey has one",
    "data.remote": "a journey's",
    "data.streams": "a journey's",
    "data.cache_dir": "a journey's",
    "data.seq_len": "rows of another length are other data",
    "data.num_workers": "drawn for each start",
    "data.validate_hash": "without it damage may go unseen, as said",
    "data.sampling_method": "for streams",
    "data.batching_method": "for streams",
    "data.download_timeout": "waits; a stalled store has a case of its own",
    "model.base": "a journey's",
    "model.base_rope_theta": "of a base that is extended",
    "model.config": "a journey's",
    "model.attention": "needs a GPU",
    "model.kernels": "needs a GPU",
    "train.device": "needs a GPU",
    "train.compile": "minutes on a CPU",
    "train.max_duration": "a journey's",
    "train.branch_from": "a journey's",
    "train.global_batch_size": "a journey's, so that ranks divide it",
    "train.sharding": "drawn with the ranks",
    "train.dist_timeout": "ranks of a busy machine would give up",
    "train.precision": "losses would be compared as bf16",
    "checkpoint.folder": "a journey's",
    "checkpoint.state_dict": "drawn with the ranks",
    "checkpoint.autoresume": "off, a run refuses to continue, as said",
    "loggers": "drawn as a whole",
    "export.checkpoint": "a journey's",
    "export.out_dir": "a journey's",
    "export.lora": "a run with adapters",
    "lora": "for fine-tuning",
    "sft": "for fine-tuning",
    "source": "a journey's",
    "remote": "a journey's",
    "validation_source": "a journey's",
    "executor": "a cluster has tests of its own",
    "slurm": "a cluster has tests of its own",
    "ray": "a cluster has tests of its own",
    "workers": "drawn for each start",
    "seq_len": "rows of another length are other data",
    "max_length": "of the base's context",
    "text_key": "the text has one",
    "id_key": "the text has none",
    "text_unit": "for plain text",
    "stream_key": "the text has one",
    "streams": "the text has one",
    "long": "needs long documents",
    "filters": "the text is not English prose",
    "dedup.words": "the text is English",
    "max_tokens": "would leave too few rows",
    "format": "the conversations have one",
    "template": "the tokenizer has none",
    "turns": "conversations of one turn",
    "progress_interval": "shows, and changes nothing",
    "min_answer_tokens": "a journey's, for short answers",
}
TOGETHER: dict[type[Any], tuple[dict[str, str], ...]] = {
    RecipeConfig: (
        {"masking.schedule": "linear", "masking.final_ratio": "0.3", "masking.site": "algorithm"},
        {"masking.schedule": "cosine", "masking.final_ratio": "0.0", "masking.site": "algorithm"},
        {"masking.scope": "response", "masking.site": "algorithm"},
        {"masking.preset": "official", "masking.site": "algorithm"},
        {"masking.from_epoch.1.ratio": "0.4"},
        {"masking.protected": "[bos,eos]"},
        {"masking.replacement": "{mask: 0.8, random: 0.1, keep: 0.1}"},
        {"data.cache_limit": "1mb"},
    ),
    PrepConfig: (
        {"compression": "null"},
        {"compression": "zstd:9", "tasks": "2"},
        {"dedup.exact": "true", "tasks": "3"},
    ),
    SftPrepConfig: ({"compression": "null"},),
}
"""What is only allowed, or only means something, in one; and what no help quotes."""
SMOOTH = {
    "optimizer.lr": ["0.001", "0.01"],
    "optimizer.betas": ["[0.8,0.99]"],
    "optimizer.eps": ["1e-6"],
    "optimizer.grad_clip_norm": ["0.0", "0.1"],
    "model.rms_norm_eps": ["1e-6"],
    "model.rope_theta": ["500.0"],
    "train.microbatch_size": ["1", "2"],
    "tasks": ["1", "2", "3"],
    "model.architecture": ["mistral"],  # others read text in their own way, which the small tokenizer does not know
}
"""Others end a command, as they should: the loss is no number, a batch does not divide, tasks have no file."""
SHARDED = ({}, {"train.sharding": "full"}, {"train.sharding": "grad_op"})
_DURATIONS = ("1ba", "4ba", "40sp", "1ep", "0.3dur", "999ba")
_QUOTED = re.compile(r"`([^`\s]+)`")


def is_left_out(key: str) -> bool:
    """Whether a key, or its section, is not drawn."""
    return any(key == each or key.startswith(f"{each}.") for each in LEFT_OUT)


@cache
def help_of(config_class: type[Any]) -> dict[str, str]:
    """What the command line says of each key."""
    found, key = dict[str, str](), ""
    for line in describe_keys(config_class):
        if line[:1] != " ":
            key = line.strip().partition("=")[0]
        words = line.strip()
        if "=" in words and re.match(r"[a-z_.<>]+=", words):
            key = words.partition("=")[0]
        found[key] = f"{found.get(key, '')} {words}"
    return found


def guesses(hint: Any, default: Any, text: str) -> Iterator[str]:
    """Values that a key may hold, as the command line takes them; not all need be allowed."""
    kinds = {get_origin(each) or each for each in (hint, *get_args(hint))}
    if bool in kinds:
        yield from ("true", "false")
    elif int in kinds:
        known = default if isinstance(default, int) else 4
        yield from (str(each) for each in (0, 1, 2, 3, 7, 2 * known, known // 2))
    elif float in kinds:
        known = default if isinstance(default, float) else 0.5
        yield from (str(each) for each in (0.0, 0.1, 0.5, 1.0, known / 2))
    else:
        yield from (f"[{word}]" if tuple in kinds else word for word in _QUOTED.findall(text))
        if (isinstance(default, str) and re.fullmatch(r"[\d.]+(ba|ep|dur)", default)) or "2000ba" in text:
            yield from _DURATIONS
        if isinstance(default, str) and re.fullmatch(r"\d+(mb|MB|GB)", default):
            yield from ("16" + default[-2:].replace("G", "K").replace("m", "k").replace("M", "K"),)


@cache
def choices(config_class: type[Any]) -> dict[str, list[str]]:
    """Values other than the default of each key that is drawn, which the configuration accepts."""
    found = dict[str, list[str]]()
    default = accepted(config_class, {})
    for key in config_keys(config_class):
        hint = hint_at(config_class, key.split("."))
        if is_left_out(key) or is_section(hint) or "<" in key:
            continue
        value = default
        for name in key.split("."):
            value = getattr(value, name)
        text = help_of(config_class).get(key.rpartition(".")[2], "")
        text += help_of(config_class).get(key, "")
        guessed = SMOOTH.get(key) or guesses(hint, value, text)
        allowed = [
            guess
            for guess in dict.fromkeys(guessed)
            if (config := accepted(config_class, {key: guess})) is not None and config != default
        ]
        if allowed:
            found[key] = allowed
    return found


def accepted(config_class: type[Any], settings: dict[str, Any]) -> Any:
    """The configuration, or None if it refuses the settings."""
    base = SMALL if config_class is RecipeConfig else {}
    try:
        config = load_config(config_class, None, [f"{key}={value}" for key, value in {**base, **settings}.items()])
        if config_class is RecipeConfig:
            from meap.train.preflight import check_config

            check_config(config)
    except ConfigError:
        return None
    return config


def draw(
    random: Random, config_class: type[Any], base: dict[str, str], *, without: tuple[str, ...] = ()
) -> dict[str, str]:
    """`base`, and few keys besides with another value than their default; none that begins as one of `without`."""
    drawn, share = dict(base), 0.04 if config_class is RecipeConfig else 0.1
    offers = [{key: random.choice(values)} for key, values in choices(config_class).items() if random.random() < share]
    offers += [each for each in TOGETHER[config_class] if random.random() < share]
    for offer in offers:
        if any(key in base or key.startswith(without or "-") for key in offer):
            continue
        if accepted(config_class, drawn | offer) is not None:
            drawn |= offer
    return drawn


CONFIGS: dict[str, type[Any]] = {"prepare": PrepConfig, "prepare_chats": SftPrepConfig, "train": RecipeConfig}
