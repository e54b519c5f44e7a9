"""Batches -> datatrove's documents -> batches, around datatrove's own blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from meap.errors import BadInputError, MeapError
from meap.places.folder import Folder
from meap.prep.documents import DocumentBatch
from meap.prep.progress import Tally
from meap.prep.removal.report import REMOVED_DIR
from meap.prep.removal.words import load_words

__all__ = ["AsBatches", "AsDocuments"]


class AsDocuments(PipelineStep):
    """Yields the documents of batches one by one.

    Args:
        words: Languages whose words the blocks after this one split.
    """

    type = "ADAPT"
    name = "batches to documents"

    def __init__(self, words: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.words = words
        self.last_place = [("", 0)]
        """File and line of the last document; in a list, which copies of this step share."""

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None
        self, data: Iterable[DocumentBatch], rank: int = 0, world_size: int = 1
    ) -> Iterator[Document]:
        """Yield the documents, with place, stream and split as metadata."""
        del world_size
        for language in self.words:
            load_words(language)
        for batch in data:
            for text, place, stream, name in zip(batch.texts, batch.places, batch.streams, batch.ids, strict=True):
                self.last_place[0] = place
                metadata = {"place": place, "stream": stream, "split": batch.split, "task": rank, "id": name}
                yield Document(text, id=name or f"{place[0]}:{place[1]}", metadata=metadata)

    def named(self, data: Iterable[Document]) -> Iterator[Document]:
        """The documents that come out of the blocks after this one; the error of a block names the document.

        Raises:
            BadInputError: A block fails on a document.
        """
        try:
            yield from data
        except (MeapError, OSError, AssertionError):
            raise
        except Exception as error:
            file, number = self.last_place[0]
            raise BadInputError(
                f"{file}:{number}: a filter fails on this document ({type(error).__name__}: {error}): leave "
                "it out of the file, or the filter out of filters"
            ) from error


class AsBatches(PipelineStep):
    """Collects the kept documents in batches again, and stores examples of the removed ones.

    Args:
        source: The step that made the documents.
        tally: Holds the examples.
        folder: Where they are stored.
    """

    type = "ADAPT"
    name = "documents to batches"

    def __init__(self, source: AsDocuments, tally: Tally, folder: Folder) -> None:
        super().__init__()
        self.source = source
        self.tally = tally
        self.folder = folder

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; batches leave this step
        self, data: Iterable[Document], rank: int = 0, world_size: int = 1
    ) -> Iterator[DocumentBatch]:
        """Yield the batches.

        Raises:
            BadInputError: One of datatrove's blocks fails on a document.
        """
        del world_size
        batch = DocumentBatch()
        for document in self.source.named(data):
            split = document.metadata["split"]
            if batch.texts and (batch.is_full or batch.split != split):
                yield batch
                batch = DocumentBatch()
            batch.split = split
            file, number = document.metadata["place"]
            batch.add(document.text, file, number, document.metadata["stream"], document.metadata["id"])
        if batch.texts:
            yield batch
        if self.tally.removed_examples:
            lines = b"".join(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in self._examples())
            self.folder.write(f"{REMOVED_DIR}/{rank:05d}.jsonl", lines)

    def _examples(self) -> list[dict[str, object]]:
        return sorted(self.tally.removed_examples, key=lambda each: each["removed_by"])
