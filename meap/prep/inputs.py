"""The raw files of a job: found, ordered, divided among tasks, opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, cast

from meap.errors import ConfigError
from meap.places.addresses import use_one_s3_endpoint
from meap.places.folder import open_filesystem
from meap.places.problems import place_errors
from meap.prep.formats import names_of, suffixes_of
from meap.prep.listing import list_files
from meap.schema import TRAIN_SPLIT, VALIDATION_SPLIT

__all__ = ["InputFiles", "find_inputs", "with_validation"]


@dataclass(frozen=True)
class InputFiles:
    """The raw files of a job, in the order in which they are read."""

    root: str
    """Folder or URL that holds them, as the user wrote it; empty if there are several."""
    names: tuple[str, ...]
    """Paths below `root`, sorted; without a root whole paths."""
    sizes: tuple[int, ...]
    """Stored (compressed) bytes of each."""
    num_validation: int = 0
    """How many of them, the first ones, are a validation set."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Each file as shown to users and stored in manifests."""
        return tuple(self.url_of(name) for name in self.names)

    def url_of(self, name: str) -> str:
        """One file as shown to users and stored in manifests."""
        return f"{self.root.rstrip('/')}/{name}" if self.root not in {"", "."} else name

    def of_task(self, task: int, tasks: int) -> range:
        """Numbers of the files that task `task` of `tasks` reads: a contiguous range, so that order is kept.

        If there are validation files, the first of several tasks reads them and no others: if all tasks read some, each
        would drop the end of its last row.
        """
        if tasks == 1:
            return range(len(self.names))
        if self.num_validation and task == 0:
            return range(self.num_validation)
        index, of = self.share_of_task(task, tasks) or (0, 1)
        count = len(self.names) - self.num_validation
        return range(self.num_validation + index * count // of, self.num_validation + (index + 1) * count // of)

    def share_of_task(self, task: int, tasks: int) -> tuple[int, int] | None:
        """Which part of how many a task has of the training files; None if it reads none."""
        if not self.num_validation or tasks == 1:
            return task, tasks
        return (task - 1, tasks - 1) if task else None

    def split_of(self, index: int) -> str | None:
        """Split of all documents of a file; None if a hash of their text decides."""
        if not self.num_validation:
            return None
        return VALIDATION_SPLIT if index < self.num_validation else TRAIN_SPLIT

    @contextmanager
    def open(self, index: int) -> Iterator[IO[bytes]]:
        """Open a file for reading bytes.

        Raises:
            DataError: It cannot be opened or fetched.
        """
        url = self.url_of(self.names[index])
        filesystem, path = open_filesystem(url)
        with place_errors(url), filesystem.open(path, "rb") as opened:
            yield cast("IO[bytes]", opened)


def with_validation(train: InputFiles, validation: InputFiles) -> InputFiles:
    """The files of both, those for validation first.

    Raises:
        ConfigError: A file is among both.
    """
    if both := set(validation.urls) & set(train.urls):
        raise ConfigError(
            f"{min(both)} is among the files of source and of validation_source, so that training would see what it is "
            "validated on: choose globs that do not overlap"
        )
    urls, sizes = (*validation.urls, *train.urls), (*validation.sizes, *train.sizes)
    return InputFiles("", urls, sizes, num_validation=len(validation.names))


def find_inputs(
    source: str | tuple[str, ...],
    *,
    suffixes: tuple[str, ...] | None = None,
    kind: str | None = None,
    key: str = "source",
) -> InputFiles:
    """List the files that paths, globs, folders or URLs stand for, with their sizes.

    Args:
        source: One of them, or several: their files come in that order, each once; those of each are sorted.
        suffixes: Ends of the file names that are read in a folder. Unset: those of every format.
        kind: What the files hold, for error messages. Unset: the formats.
        key: Of the configuration, for error messages.

    Raises:
        DataError: One of them stands for no file, or cannot be listed.
    """
    use_one_s3_endpoint()
    suffixes, kind = suffixes or suffixes_of(), kind or names_of()
    several = [
        InputFiles(root, tuple(sizes), tuple(sizes.values()))
        for each in ([source] if isinstance(source, str) else source)
        for root, sizes in [list_files(each, suffixes=suffixes, kind=kind, key=key)]
    ]
    if len(several) == 1:
        return several[0]
    found: dict[str, int] = {}
    for files in several:
        for url, size in zip(files.urls, files.sizes, strict=True):
            found.setdefault(url, size)
    return InputFiles("", tuple(found), tuple(found.values()))
