"""Measure any Hugging Face causal language model, or compare two that were measured.

    python recipes/evaluate.py yamls/eval_small.yaml model=runs/tiny/hf            # all tasks in minutes on a CPU
    python recipes/evaluate.py yamls/eval.yaml model=runs/1b/hf                    # the paper's settings
    python recipes/evaluate.py yamls/eval.yaml model=meta-llama/Llama-3.2-3B tasks=needle_fu,multidoc_qa
    torchrun --nproc_per_node 8 recipes/evaluate.py yamls/eval.yaml model=runs/1b/hf   # examples shared by 8 GPUs
    python recipes/evaluate.py yamls/eval.yaml model=runs/1b/hf --dry-run              # examples, and a judge's cost
    python recipes/evaluate.py compare=runs/1b_ntp/eval,runs/1b/eval

Writes <out_dir>: results.json, report.html, which opens offline, summary.png, and for each task a picture,
<task>.parquet with a response per example, and <task>.grid.csv where it has a grid. A run that was stopped continues
where it was. Runs on a GPU in bf16 where there is one.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from meap.config import DataConfig, EvaluationConfig, StreamConfig, run_command
from meap.processes import leave


def main(cfg: EvaluationConfig) -> None:
    """Compare, or load, run the tasks, print."""
    from meap.places.addresses import use_one_s3_endpoint

    if cfg.compare:
        from meap.evals.comparison import compare, print_comparison
        from meap.evals.page import write_comparison_page

        out_dir = Path(cfg.out_dir or "runs/eval/compare")
        found = compare(cfg.compare, out_dir)
        print_comparison(found)
        write_comparison_page(found, out_dir)
        print(f"written     {out_dir}")
        return

    from meap.evals.hugging_face import limit_threads, load_model
    from meap.evals.page import write_results_page
    from meap.evals.ranks import join_ranks
    from meap.evals.runner import choose_tasks, require_packages_of, results_dir, run_tasks
    from meap.evals.tables import print_results
    from meap.export.hf import read_export_record

    use_one_s3_endpoint()
    names = choose_tasks(cfg.tasks)
    require_packages_of(names, cfg)
    ranks = join_ranks()

    # The model, and the tokenizer in its folder, read as data preparation reads it: the same ids for the same text.
    model = load_model(cfg)
    about = model.describe()
    limit_threads(about)
    export = read_export_record(Path(about["name"]))
    out_dir = Path(cfg.out_dir) if cfg.out_dir else results_dir(about["name"], is_export=export is not None)
    if ranks.is_first:
        print(f"model       {about['name']}: {about['parameters']:,} parameters, {about['dtype']} on {about['device']}")

    with ExitStack() as opened:
        inputs, origin = _inputs(cfg, model.tokenizer, names, opened)
        facts = {"data": origin, "export": export}
        results = run_tasks(inputs, model, names, out_dir, ranks=ranks, facts=facts)
    if ranks.is_first:
        print_results(results)
        write_results_page(out_dir)
        print(f"\nwritten     {out_dir}")


def check(cfg: EvaluationConfig) -> None:
    """Refuse a configuration that contradicts itself, before the slow imports."""
    from meap.config.checks import require_writable_folder
    from meap.evals.comparison import folders_to_compare
    from meap.evals.runner import choose_tasks

    if cfg.out_dir:
        require_writable_folder("out_dir", cfg.out_dir)
    if cfg.compare:
        folders_to_compare(cfg.compare)
        return
    cfg.require_model()
    choose_tasks(cfg.tasks)


def libraries(cfg: EvaluationConfig) -> str:
    """What takes seconds to import."""
    return "matplotlib" if cfg.compare else "torch and transformers"


def dry_run(cfg: EvaluationConfig) -> None:
    """Make every example, and say how many there are and what a judge would cost; neither model nor judge is asked."""
    from meap.evals.dry_run import rehearse
    from meap.evals.hugging_face import load_model_tokenizer
    from meap.evals.runner import choose_tasks
    from meap.places.addresses import use_one_s3_endpoint

    use_one_s3_endpoint()
    names = choose_tasks(cfg.tasks)
    tokenizer = load_model_tokenizer(cfg)
    with ExitStack() as opened:
        inputs, _ = _inputs(cfg, tokenizer, names, opened)
        rehearse(inputs, names)


def _inputs(cfg: EvaluationConfig, tokenizer: Any, names: Sequence[str], opened: ExitStack) -> tuple[Any, str | None]:
    """What examples are made of, and where the held-out rows are; without these, tasks that need none go on."""
    from meap.errors import DataError, MismatchError
    from meap.evals.task import TaskInputs
    from meap.evals.tasks import TASKS

    try:
        rows, origin = _heldout_rows(cfg, tokenizer.fingerprint, opened)
    except MismatchError:
        raise
    except DataError as error:
        inputs = TaskInputs(cfg, tokenizer, why_no_rows=str(error))
        if all(TASKS[name].skip(inputs) for name in names):
            raise
        return inputs, None
    return TaskInputs(cfg, tokenizer, rows), origin


def _heldout_rows(cfg: EvaluationConfig, fingerprint: str, opened: ExitStack) -> tuple[Sequence[Any], str | None]:
    """Validation rows of the prepared data, and where they are; none where another tokenizer made them."""
    import numpy as np

    from meap.data import StreamingMaskedDataset, build_streams, open_shards
    from meap.data.shards import read_manifest
    from meap.evals.task import LazyRows
    from meap.schema import TOKENS_COLUMN, VALIDATION_SPLIT

    if not cfg.perplexity.remote:
        return (), None
    manifest = read_manifest(cfg.perplexity.remote[0], VALIDATION_SPLIT, key="perplexity.remote")
    streams = {str(number): StreamConfig(remote) for number, remote in enumerate(cfg.perplexity.remote)}
    data = DataConfig(streams=streams, seq_len=manifest.seq_len)
    shards = open_shards(data, VALIDATION_SPLIT)
    if shards.tokenizer.fingerprint != fingerprint:
        # Held-out rows are ids, which mean something to the tokenizer that made them only.
        return (), shards.origin
    # A cache of its own: a training run that is still going on owns the other one.
    cache_dir = opened.enter_context(tempfile.TemporaryDirectory(prefix="meap-eval-"))
    dataset = StreamingMaskedDataset(
        rule=None,
        labels="shifted",
        streams=build_streams(data, shards, Path(cache_dir)),
        batch_size=1,
        num_canonical_nodes=1,
        shuffle=False,
    )
    order = shards.mixed_order()

    # By number, not by iteration, which starts threads and keeps an epoch's state.
    def read_row(index: int) -> Any:
        return dataset.stored_at(int(order[index]))[TOKENS_COLUMN].astype(np.int64)

    return LazyRows(shards.rows, read_row), shards.origin


if __name__ == "__main__":
    leave(run_command(EvaluationConfig, main, doc=__doc__, dry_run=dry_run, check=check, loads=libraries))
