"""Measure any Hugging Face causal language model, or compare two that were measured.

    python recipes/evaluate.py yamls/eval_small.yaml model=runs/tiny/hf      # all tasks in minutes on a CPU
    python recipes/evaluate.py yamls/eval_4k.yaml model=runs/1b              # what needs no download
    python recipes/evaluate.py yamls/eval.yaml model=runs/1b_64k             # the paper's settings, on its export
    python recipes/evaluate.py yamls/eval.yaml model=meta-llama/Llama-3.2-3B tasks=needle_fu,multidoc_qa
    torchrun --nproc_per_node 8 recipes/evaluate.py yamls/eval.yaml model=runs/1b_64k # 8 GPUs share
    python recipes/evaluate.py yamls/eval.yaml model=runs/1b_64k --dry-run            # a judge's cost, too
    python recipes/evaluate.py compare=runs/1b_ntp/eval,runs/1b/eval

Writes <out_dir>: results.json, report.html, which opens offline, summary.png, and for each task a picture,
<task>.parquet with a response per example, and <task>.grid.csv where it has a grid. A run that was stopped continues
where it was. Runs on a GPU in bf16 where there is one.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meap.config import EvaluationConfig, run_command
from meap.processes import leave


def main(cfg: EvaluationConfig) -> None:
    """Compare, or load, run the tasks, print."""
    from meap.places.addresses import use_one_s3_endpoint

    if cfg.compare:
        from meap.evals.comparison import compare, print_comparison
        from meap.evals.page import write_comparison_page

        out_dir = Path(cfg.out_dir or "runs/eval/compare")
        found = compare(cfg.compare, out_dir)
        write_comparison_page(found, out_dir)
        print_comparison(found)
        print(f"written     {out_dir}")
        return

    from meap.evals.hugging_face import limit_threads, load_model
    from meap.evals.page import write_results_page
    from meap.evals.ranks import join_ranks
    from meap.evals.runner import choose_tasks, require_packages_of, run_tasks
    from meap.evals.tables import print_results
    from meap.usage import read_export_record

    use_one_s3_endpoint()
    names = choose_tasks(cfg.tasks)
    require_packages_of(names, cfg)
    ranks = join_ranks()

    # The model, and the tokenizer in its folder, read as data preparation reads it: the same ids for the same text.
    model = load_model(cfg)
    about = model.describe()
    limit_threads(about)
    export = read_export_record(Path(about["name"]))
    out_dir = find_out_dir(cfg, about["name"])
    if ranks.is_first:
        print(f"model       {about['name']}: {about['parameters']:,} parameters, {about['dtype']} on {about['device']}")

    with open_inputs(cfg, model.tokenizer) as (inputs, origin):
        facts = {"data": origin, "export": export}
        results = run_tasks(inputs, model, names, out_dir, ranks=ranks, facts=facts, write_page=write_results_page)
    if ranks.is_first:
        print_results(results)
        print(f"\nwritten     {out_dir}")


def check(cfg: EvaluationConfig) -> None:
    """Refuse a configuration that contradicts itself, before the slow imports."""
    from meap.config.checks import require_writable_folder
    from meap.evals.comparison import folders_to_compare
    from meap.evals.runner import choose_tasks
    from meap.run_files import find_model

    if cfg.out_dir:
        require_writable_folder("out_dir", cfg.out_dir)
    if cfg.compare:
        folders_to_compare(cfg.compare)
        return
    find_model(cfg.require_model())
    choose_tasks(cfg.tasks)


def libraries(cfg: EvaluationConfig) -> str:
    """What takes seconds to import."""
    return "matplotlib" if cfg.compare else "torch and transformers"


def dry_run(cfg: EvaluationConfig) -> None:
    """Make every example, say how many there are, whether they fit, and what a judge would cost; nobody is asked."""
    from meap.evals.dry_run import rehearse
    from meap.evals.hugging_face import load_context, load_model_tokenizer
    from meap.evals.runner import choose_tasks, describe_replaced
    from meap.places.addresses import use_one_s3_endpoint
    from meap.run_files import find_model

    use_one_s3_endpoint()
    names = choose_tasks(cfg.tasks)
    context, tokenizer = load_context(cfg), load_model_tokenizer(cfg)
    with open_inputs(cfg, tokenizer) as (inputs, _):
        rehearse(inputs, names, max_positions=context)
    model = find_model(cfg.require_model())
    known = {"tokenizer": tokenizer.fingerprint, "add_bos": cfg.add_bos}
    if warning := describe_replaced(find_out_dir(cfg, model), model, known):
        print(warning, file=sys.stderr, flush=True)


def find_out_dir(cfg: EvaluationConfig, model: str) -> Path:
    """Folder for the results of a model."""
    from meap.evals.runner import results_dir
    from meap.usage import read_export_record

    is_export = read_export_record(Path(model)) is not None
    return Path(cfg.out_dir) if cfg.out_dir else results_dir(model, is_export=is_export)


@contextmanager
def open_inputs(cfg: EvaluationConfig, tokenizer: Any) -> Iterator[tuple[Any, str | None]]:
    """What examples are made of, and where its held-out rows are; without these, tasks that need none go on."""
    from meap.data import open_heldout_rows
    from meap.evals.task import LazyRows, TaskInputs

    remotes, fingerprint = cfg.perplexity.remote, tokenizer.fingerprint
    with open_heldout_rows(remotes, fingerprint=fingerprint, key="perplexity.remote") as heldout:
        rows = LazyRows(heldout.num_rows, heldout.read, heldout.source_of)
        yield TaskInputs(cfg, tokenizer, rows, heldout.why_none), heldout.origin


if __name__ == "__main__":
    run = {"dry_run": dry_run, "check": check, "loads": libraries}
    leave(run_command, EvaluationConfig, main, doc=__doc__, outlives_reader=True, **run)
