"""Raw text -> shards.

    files -> documents          reader.py     every bad line counted, every damaged file refused
    documents -> rows           steps.py      tokenizer, held-out split, packing
    rows -> shards -> data set  shards.py     written per task, published when all tasks are done

`corpora.py` says what can be read, `job.py` who a data set is and what a rerun finds done, `pipeline.py` runs the steps
over tasks, `progress.py` tells how far they are, `folder.py` is the place written to; `sample.py` makes a corpus and a
tokenizer without a network.

    packed chunks -> rows       litpkds.py    those of the official code, without tokenizing again
    data set -> is it whole     audit/        python -m meap.prep verify, and stats: what is in it
"""
