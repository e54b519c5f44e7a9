"""Hugging Face folder -> numbers and pictures.

    examples ──> requests ──> a model ──> outputs ──> scores ──> responses ──> numbers ──> tables, pictures, page
    tasks/*      task         lm          asking      tasks/*    responses     summary     tables, pictures, page

    lm             the interface of a model              hugging_face  a model of transformers behind it
    task           what a task is made of              tasks/        one file each, and their table
    asking         batches, ranks, what is done        responses     a response per example; resuming
    scoring        intervals and tests                 summary       responses -> rows of a table
    answers        overlap of response and answer      haystack      text that needles are put into
    runner         results.json                        comparison    two of them side by side
    ranks          processes that share the work       tables, pictures, samples, page
    rows           files of questions and articles     articles      articles with reference summaries
    judge/         a language model scores summaries   dry_run       the size of an evaluation
    attention      weights, reduced layer by layer     decay         Table 10 from responses
    passages       text with an answer in its middle

To add a task: one file in `tasks/` with `examples`, `score` and a `TASK`, its section in `meap.config.evaluation`, and
its row in `tasks.TASKS`. Batches, ranks, resuming, intervals, tables and comparison come with it.
"""

from meap.extras import require_packages

require_packages(
    "meap.evals", "httpx", "jinja2", "matplotlib", "pyarrow", "rich", "scipy", "torch", "transformers", extra="eval"
)
