"""Raw text -> shards.

    files -> documents          reader.py     every bad record counted, every damaged file refused; formats/, inputs.py
    documents -> rows           steps.py      tokenizer, held-out split, packing; selection.py: which, by their length
    rows -> shards -> data set  shards.py     written per task, published when all tasks are done

`corpora.py` says what can be read, `streams.py` what the data sets of a divided corpus are called, `job.py` who a data
set is and what a rerun finds done, `pipeline.py` runs the steps over tasks, `progress.py` tells how far they are,
`folder.py` is the place written to; `sample.py` makes a corpus and a tokenizer without a network.
"""
