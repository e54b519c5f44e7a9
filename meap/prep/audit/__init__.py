"""Is a prepared data set whole, and what is in it: ``meap verify`` and ``meap stats``.

    location -> data sets      places.py       a split, a data set, or a folder of them (streams)
    metadata -> findings       metadata.py     manifest, index and document counts, compared
    shard -> findings          shard.py        every hash, row and token, with nothing in it trusted
    data set -> findings       verify.py       metadata first, then every shard, then the totals
    shard -> numbers           contents.py     token counts, hashes of rows and n-grams
    data set -> numbers        statistics.py   the contents of all shards, and what preparation has counted of documents
    numbers -> table, picture  report.py  picture.py

`workers.py` runs shards in parallel and shows progress.
"""
