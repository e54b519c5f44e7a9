"""Raw text -> shards.

    files -> documents          reader.py       every bad record counted, every damaged file refused
    documents -> ids            encoding/       the ids of `tokenizers`, several times as fast
    ids -> rows                 steps.py        held-out split, packing; documents counted (document_counts.py)
    rows -> shards              shards.py       stored as they fill; a record per task (task_records.py)
    shards -> data set          publish.py      indexes, written once all tasks are done

    configuration -> job        corpora.py  lit_chunks.py  sft/source.py     every value set (resolved.py), files found
    output folder -> job        preparation.py  locked and claimed (identity.py), what is done (job.py); runs the steps
    job -> last line            summary.py      what was written, and what was lost

`formats/` reads files, `streams.py` names the data sets of a divided corpus, `selection.py` chooses documents by their
length, `removal/` filters and deduplicates. `executors/` run the steps, here or on a cluster; `progress.py` counts,
`live.py` and `view.py` show it. `sample.py` makes a corpus and a tokenizer without a network. `litpkds.py` imports the
official code's chunks, `sft/` prepares conversations. `audit/` is ``meap verify`` and ``meap stats``.
"""

from meap.extras import require_packages

require_packages(
    "meap.prep",
    "datatrove",
    "dill",
    "fastokens",
    "isal",
    "jinja2",
    "matplotlib",
    "multiprocess",
    "numba",
    "orjson",
    "pyarrow",
    "rich",
    "transformers",
    "xxhash",
    "zstandard",
    extra="prep",
)
