"""What is left out of the documents: datatrove's filters and deduplication, between the reader and the packer.

    batches -> documents.AsDocuments -> filters -> duplicates -> documents.AsBatches -> batches

`steps` puts them together; nothing of it is there unless it is configured. Duplicates are found first, in passes of
their own (`duplicates`, `stages`); each document that is removed is counted with the reason, and some are kept to look
at (`report`).
"""
