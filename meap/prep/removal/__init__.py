"""Filters and deduplication: datatrove's, between the reader and the packer, off unless configured.

    batches -> documents.AsDocuments -> filters -> duplicates -> documents.AsBatches -> batches

`steps` puts them together. Duplicates are found first, in passes of their own (`duplicates`, `stages`). Each removed
document is counted with the reason, and some are stored as examples (`report`).
"""
