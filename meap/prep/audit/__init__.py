"""Is a prepared data set whole, and what is in it: ``meap verify`` and ``meap stats``.

    location -> data sets      places.py       a split, a data set, or a folder of them (streams)
    shard file -> rows         mds.py          the format parsed from its bytes, with nothing in it trusted
    data set -> findings       verify.py       metadata first, then every shard by shard.py
    rows -> documents          documents.py    cut at BOS and EOS, joined over the borders of shards
    data set -> numbers        statistics.py   with sampling.py, so that memory does not grow with the data
    numbers -> table, picture  report.py  picture.py

`workers.py` runs shards in parallel and tells how far they are.
"""
