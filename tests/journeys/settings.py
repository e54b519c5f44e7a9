"""What the journeys change of a yaml: sizes and lengths alone, so that all else runs as users run it."""

from pathlib import Path

import yaml

SMALL_MODEL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}
SEQ_LEN = 128

PRE_TRAINING = {
    "base": "yamls/0.1b.yaml",
    "data": {"remote": "data/crawl/mds", "seq_len": SEQ_LEN},
    "model": SMALL_MODEL,
    "train": {"max_duration": "24ba", "global_batch_size": 16, "log_interval": "2ba", "eval_interval": "8ba"},
    "checkpoint": {"interval": "8ba"},
}

FINE_TUNING = {
    "base": "yamls/sft_llama3_8b.yaml",
    "data": {"remote": "data/chats/mds", "seq_len": 2 * SEQ_LEN},
    "model": {"base": "runs/own/hf"},
    "train": {
        "max_duration": "2ep",
        "global_batch_size": 8,
        "log_interval": "2ba",
        "eval_interval": "1ep",
        "sharding": "none",  # of the yaml: it takes eight devices
    },
    "checkpoint": {"interval": "1ep"},
}


def write_yaml(path: Path, values: dict[str, object]) -> None:
    """Write a run's yaml."""
    path.write_text(yaml.safe_dump(values))
