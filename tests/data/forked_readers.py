"""Reads epochs in processes of their own, with slow imports done once: each line read is forked into a reader.

Object-storage clients keep their endpoint and credentials for as long as their process lives; here each reader has its
own. Reads lines ``{"remote": ..., "cache": ..., "options": {...}, "environment": {...}, "out": ...}`` from stdin, and
prints for each, when the reader has ended, its exit status. `<out>.json` has what it read, or the error it met, and
`<out>.log` what it printed.
"""

import hashlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import boto3  # noqa: F401  with what follows, what a reader imports when it meets the store
import s3fs  # noqa: F401

from meap.config import DataConfig, MaskingConfig, TokenizerConfig
from meap.data import build_loader, build_mask_rule, open_shards, open_tokenizer
from meap.errors import MeapError
from meap.places.addresses import use_one_s3_endpoint


def read_epoch(remote: str, cache: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Ids and hashes of an epoch's rows, masked, in order; or the error."""
    use_one_s3_endpoint()
    data = DataConfig(
        remote=remote,
        seq_len=16,
        num_canonical_nodes=4,
        download_retry=0,
        download_timeout=5.0,
        download_patience=0,
        **options,
    )
    try:
        shards = open_shards(data, "train")
        rule = build_mask_rule(MaskingConfig(ratio=0.25), shards.tokenizer, seed=17)
        assert rule is not None
        assert rule.mask_id == open_tokenizer(TokenizerConfig(), shards).mask_id
        loader = build_loader(
            data, shards, rule=rule, seed=17, global_batch_size=8, world_size=1, cache_dir=cache, shuffle=True
        )
        rows = [
            (int(sample), hashlib.sha256(row.numpy().tobytes()).hexdigest())
            for batch in loader
            for sample, row in zip(batch["sample_id"], batch["input_ids"], strict=True)
        ]
    except MeapError as error:
        return {"error": str(error)}
    return {"rows": rows}


def main() -> None:
    """Serve lines until stdin ends."""
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 1
            log = os.open(f"{order['out']}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(order["environment"])
            try:
                found = read_epoch(order["remote"], Path(order["cache"]), order["options"])
                Path(f"{order['out']}.json").write_text(json.dumps(found))
                status = 0
            except BaseException:  # noqa: BLE001  nothing may go on into the loop above
                traceback.print_exc()
            sys.exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
