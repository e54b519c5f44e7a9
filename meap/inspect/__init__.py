"""Looks at prepared data: decoded samples with their masks, as training sees them, and what the data set is made of.

    (epoch, sample id) -> parts (`samples`) -> pieces of text (`pieces`) -> terminal (`terminal`) or page (`page`)

`meap inspect` fetches the shards of the samples it shows and no others, by random access through the dataset that
training iterates over. Statistics (`statistics`) are of all rows of the fetched shards, and of the manifest.
"""

from meap.extras import require_packages

require_packages("meap.inspect", "torch", extra="train")
