"""The format of shards: MDS version 2, as `streaming` reads and writes it, and the index that names a split's shards.

findings    problems of a data set, one finding each
index       index.json, its entries, the names of shards, versions; all of it checked
writing     rows -> the bytes of a shard          reading     the bytes of a shard -> rows

`meap.prep` writes it, `meap.data` reads it with `streaming`, and the audit of `meap.prep` without.
"""
