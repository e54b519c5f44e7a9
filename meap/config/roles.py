"""What each key of a training configuration decides, and so whether a run that resumes may change it."""

from __future__ import annotations

import re
from enum import Enum

from meap.config.keys import fields_of
from meap.config.loggers import LoggersConfig

__all__ = ["Role", "role_of"]


class Role(Enum):
    """What a key decides."""

    RESULT = "rows, their order, masks, weights or updates: fixed for a run"
    LENGTH = "length and precision: the result depends on them, but a run that resumes may change them"
    SOURCE = "where rows and tokenizer are: a run keeps the content, not the address"
    SPEED = "how it is computed, fetched and monitored: no row, mask or update depends on it"
    PLACE = "name of the run, and where it writes"


_ROLES: dict[Role, dict[str, str]] = {
    Role.RESULT: {
        "run": "seed",
        "data": "seq_len num_canonical_nodes shuffle shuffle_algo shuffle_block_size sampling_method batching_method",
        "data.streams.<name>": "proportion",
        "masking": "ratio strategy span_length replacement reversed_ratio mask_last protected preset scope schedule "
        "final_ratio schedule_duration",
        "masking.from_epoch.<name>": "ratio replacement",
        "sft": "layout loss weighting min_answer_tokens",
        "model": "base base_rope_theta config hidden_size intermediate_size num_attention_heads num_key_value_heads "
        "num_hidden_layers vocab_multiple rope_theta rms_norm_eps architecture head_dim tie_word_embeddings",
        "lora": "rank alpha dropout target_modules use_rslora train_mask",
        "optimizer": "lr betas eps weight_decay decay_norms grad_clip_norm",
        "scheduler": "schedule decay_fraction decay_shape warmup_ratio warmup_duration final_ratio lead",
        "train": "global_batch_size branch_from",
    },
    Role.LENGTH: {"train": "max_duration precision"},
    Role.SOURCE: {
        "tokenizer": "name bos_token eos_token mask_token",
        "data": "remote",
        "data.streams.<name>": "remote",
    },
    Role.SPEED: {
        "data": "num_workers predownload cache_limit keep_zip validate_hash download_retry download_timeout "
        "download_patience",
        "masking": "site",
        "model": "attention kernels",
        "train": "microbatch_size device log_interval sharding activation_checkpointing compile loss_chunks "
        "eval_interval eval_batches samples sample_tokens dist_timeout deterministic",
    },
    Role.PLACE: {
        "run": "name dir",
        "data": "cache_dir",
        "checkpoint": "folder interval keep state_dict autoresume",
        "loggers": " ".join(fields_of(LoggersConfig)),
        "export": "checkpoint out_dir keep_mask dtype max_shard_size lora",
    },
}
ROLES = {
    f"{section}.{name}": role
    for role, sections in _ROLES.items()
    for section, names in sections.items()
    for name in names.split()
}
"""By key; `<name>` stands for that of a stream, or the number of an epoch. A test goes through all keys."""

_NAMED = re.compile(r"^(data\.streams|masking\.from_epoch)\.[^.]+")


def role_of(key: str) -> Role:
    """The role of a dotted key, such as ``data.streams.web.remote``; an unknown key counts as deciding the result."""
    return ROLES.get(_NAMED.sub(r"\1.<name>", key), Role.RESULT)
