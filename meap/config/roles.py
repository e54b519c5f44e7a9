"""What each key of a training configuration decides: what a run must keep, and what tells two runs apart."""

from __future__ import annotations

import re
from enum import Enum

__all__ = ["Role", "role_of"]


class Role(Enum):
    """What a key decides."""

    RESULT = "rows, their order, masks, weights or updates: a run keeps it"
    LENGTH = "the result too, but a run that continues may have another: its length and precision"
    SOURCE = "where rows and tokenizer are found: a run keeps what is there, not the address"
    SPEED = "how it is computed, fetched and watched: no row, mask or update depends on it"
    PLACE = "what a run is called, and what it writes where"


_ROLES: dict[Role, dict[str, str]] = {
    Role.RESULT: {
        "run": "seed",
        "data": "seq_len num_canonical_nodes shuffle shuffle_algo shuffle_block_size sampling_method batching_method",
        "data.streams.<name>": "proportion",
        "masking": "ratio strategy span_length mask_last protected preset scope schedule final_ratio schedule_duration",
        "sft": "layout loss min_answer_tokens",
        "model": "base base_rope_theta hidden_size intermediate_size num_attention_heads num_key_value_heads "
        "num_hidden_layers vocab_multiple rope_theta rms_norm_eps",
        "optimizer": "lr betas eps weight_decay grad_clip_norm",
        "scheduler": "warmup_ratio warmup_duration final_ratio",
        "train": "global_batch_size",
    },
    Role.LENGTH: {"train": "max_duration precision"},
    Role.SOURCE: {
        "tokenizer": "name bos_token eos_token mask_token",
        "data": "remote",
        "data.streams.<name>": "remote",
    },
    Role.SPEED: {
        "data": "num_workers predownload cache_limit keep_zip validate_hash download_retry download_timeout",
        "masking": "site",
        "model": "attention kernels",
        "train": "microbatch_size device log_interval sharding activation_checkpointing compile loss_chunks "
        "eval_interval eval_batches dist_timeout deterministic",
    },
    Role.PLACE: {
        "run": "name dir",
        "data": "cache_dir",
        "checkpoint": "folder interval keep state_dict autoresume",
        "loggers": "tensorboard wandb wandb_project wandb_entity mlflow mlflow_tracking_uri mlflow_experiment",
        "export": "checkpoint out_dir keep_mask dtype max_shard_size",
    },
}
ROLES = {
    f"{section}.{name}": role
    for role, sections in _ROLES.items()
    for section, names in sections.items()
    for name in names.split()
}
"""By key; `<name>` stands for that of a stream. A key has one role: a test goes through all of them."""

_STREAM = re.compile(r"^data\.streams\.[^.]+")


def role_of(key: str) -> Role:
    """The role of a dotted key, such as ``data.streams.web.remote``; what is not known decides the result."""
    return ROLES.get(_STREAM.sub("data.streams.<name>", key), Role.RESULT)
