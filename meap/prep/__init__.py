"""Raw text -> shards.

    files -> documents          reader.py       every bad record counted, every damaged file refused
    documents -> ids            encoding/       those of `tokenizers`, several times as fast
    ids -> rows                 steps.py        held-out split, packing
    rows -> shards              shards.py       stored as they fill (bytes: mds.py); a record per task (task_records.py)
    shards -> data set          publish.py      indexes, written when all tasks are done

`corpora.py` says what can be read, `inputs.py` finds and opens the files, `formats/` reads them, `streams.py` names the
data sets of a divided corpus, `selection.py` chooses documents by their length, `removal/` filters and deduplicates.
`job.py` says who a data set is and what a rerun finds done; `executors/` run the steps, here or on a cluster;
`progress.py` counts, `live.py` and `view.py` show it; `folder.py` is the place written to. `sample.py` makes a corpus
and a tokenizer without a network. `audit/` is ``meap verify`` and ``meap stats``; `litpkds.py` imports the
official code's chunks; `sft/` makes conversations of instruction data.
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
