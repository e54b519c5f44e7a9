"""Measure an exported model: held-out loss, and facts looked up in a passage.

    python recipes/evaluate.py yamls/tiny.yaml                                          # what export_hf.py wrote
    python recipes/evaluate.py yamls/tiny.yaml eval.model=runs/other/hf eval.out_dir=runs/other/eval
    python recipes/evaluate.py yamls/1b.yaml eval.num_sentences=200 eval.num_facts=8    # longer passages

Reads <eval.model> and the validation rows of <data.remote>, or of <data.streams> mixed in the ratio of their rows;
writes <eval.out_dir>: results.json, summary.png, and one line per example in perplexity.jsonl and key_retrieval.jsonl.
Runs on a GPU in bf16 where there is one.
"""

import sys
import tempfile
from pathlib import Path

from meap.config import TrainingConfig, run_command


def main(cfg: TrainingConfig) -> None:
    """Load, run the tasks, print."""
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from meap.data import StreamingMaskedDataset, build_streams, open_shards
    from meap.evals.hugging_face import load_model
    from meap.evals.runner import TASKS, print_table, run_tasks
    from meap.evals.task import LazyRows, TaskInputs
    from meap.export.hf import read_export_record
    from meap.schema import VALIDATION_SPLIT
    from meap.storage import use_one_s3_endpoint

    use_one_s3_endpoint()
    tasks, skipped = list(TASKS), {}

    # The model, and the tokenizer in its folder, read as data preparation reads it: the same ids for the same text.
    model = load_model(cfg.eval.model, cfg.tokenizer, batch_size=cfg.eval.batch_size)
    about = model.describe()
    print(f"model       {about['name']}: {about['parameters']:,} parameters, {about['dtype']} on {about['device']}")
    export = read_export_record(Path(cfg.eval.model))

    # Held-out rows are ids, which mean something to the tokenizer that made them only.
    shards = open_shards(cfg.data, VALIDATION_SPLIT)
    if shards.tokenizer.fingerprint != model.tokenizer.fingerprint:
        tasks.remove("perplexity")
        skipped["perplexity"] = f"the model's tokenizer is not the one {shards.origin} was made with"
        print(f"skipped     perplexity: {skipped['perplexity']}")

    # A cache of its own: a training run that is still going on owns the other one.
    with tempfile.TemporaryDirectory(prefix="meap-eval-") as cache_dir:
        dataset = StreamingMaskedDataset(
            rule=None,
            streams=build_streams(cfg.data, shards, Path(cache_dir)),
            batch_size=1,
            num_canonical_nodes=1,
            shuffle=False,
        )
        order = shards.mixed_order()

        # By number, not by iteration, which starts threads and keeps an epoch's state.
        def read_row(index: int) -> NDArray[np.int64]:
            sample = dataset[int(order[index])]
            return torch.cat([sample["input_ids"], sample["labels"][-1:]]).numpy()

        inputs = TaskInputs(model, model.tokenizer, cfg.eval, LazyRows(shards.rows, read_row))
        facts = {"data": shards.origin, "export": export, "skipped": skipped}
        results = run_tasks(inputs, tasks, Path(cfg.eval.out_dir), facts=facts)
    print_table(results)
    print(f"written     {cfg.eval.out_dir}")


if __name__ == "__main__":
    sys.exit(run_command(TrainingConfig, main, doc=__doc__))
