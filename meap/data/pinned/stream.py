"""A stream that checks each file before its first use, whether it was just fetched or left by an earlier run.

streaming 0.13 checks the hash of a file only after its download, and keeps a file that fails, to be trusted at the next
start; it uses any index in the cache; and it writes to whatever path an index names. Here a file gets its name only
once it has the size and the hash that data preparation stored: downloads arrive under another name, leftovers of an
earlier run are checked when first needed, and damaged files are fetched again with exponential back-off, a bounded
number of times, before an error is raised.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from streaming import Stream
from streaming.base.constant import DEFAULT_TIMEOUT
from streaming.base.format import FileInfo, Reader
from streaming.base.hashing import get_hash
from streaming.base.storage.download import S3Downloader
from streaming.base.world import World

from meap.back_off import BackOff, GaveUpError
from meap.config import DataConfig
from meap.data.ranks import gather_from_ranks
from meap.data.unusable import (
    DamagedError,
    RefusedError,
    UnusableFileError,
    explain,
    is_final,
    is_outage,
    is_refusal,
)
from meap.errors import DataError
from meap.json_text import RESTORE, TooLargeError, read_small
from meap.manifest import ShardRecord
from meap.mds.findings import FETCH_AGAIN
from meap.mds.index import INDEX_NAME, is_compression, is_safe_name, parse_index, stored_file
from meap.mds.reading import unpack
from meap.places.problems import describe_full_disk, is_full_disk
from meap.places.redaction import describe_error
from meap.places.whole import remove_drafts, whole_file, write_whole

__all__ = ["CheckedStream"]

_BACK_OFF = BackOff(attempts=1, first_wait=0.5, longest_wait=15.0, spread=(1.0, 1.5))
_LEAST_PATIENCE_SECONDS = 60.0
"""Lower bound on the time for all attempts together."""
_log = logging.getLogger(__name__)


class _S3Downloader(S3Downloader):
    """streaming's, which retries a 400 without credentials, and then recurses forever."""

    _has_tried_unsigned = False

    def _create_s3_client(self, unsigned: bool = False, timeout: float = DEFAULT_TIMEOUT) -> Any:
        if unsigned and self._has_tried_unsigned:
            raise RefusedError("400 Bad Request, with credentials and without")
        self._has_tried_unsigned = unsigned
        return super()._create_s3_client(unsigned, timeout)


class CheckedStream(Stream):
    """streaming's stream of one data set, for `StreamingMaskedDataset`.

    Args:
        records: The shards that the index must name, from the manifest; empty without a manifest.
        download_patience: Seconds for which a store that cannot be reached is asked again, however often.
        streaming_arguments: What `streaming.Stream` takes. `download_retry` counts attempts; none begins after as many
            times `download_timeout`, or a minute if that is longer, whatever the libraries below retry.
    """

    def __init__(
        self,
        *,
        records: Sequence[ShardRecord] = (),
        download_patience: float = DataConfig.download_patience,
        **streaming_arguments: Any,
    ) -> None:
        super().__init__(**streaming_arguments)
        self._records = records
        self._patience = download_patience
        if type(self._downloader) is S3Downloader:
            self._downloader = _S3Downloader()

    def get_shards(self, world: World, allow_unsafe_types: bool) -> list[Reader]:
        """Readers of all shards, from the data set's current index instead of a cached one.

        Raises:
            DataError: The index is unreachable, damaged, of another data set, or names unsafe files.
        """
        problem = ""
        if world.is_local_leader:
            try:
                self._set_up_index()
            except DataError as error:
                problem = str(error)
        # A rank that raises alone leaves the others waiting.
        if problems := [each for each in gather_from_ranks(problem) if each]:
            raise DataError(problems[0])
        try:
            return super().get_shards(world, allow_unsafe_types)
        except (ValueError, KeyError, TypeError) as error:
            raise UnusableFileError(
                self._origin(INDEX_NAME), f"is refused ({type(error).__name__}: {error})", FETCH_AGAIN
            ) from error

    def set_up_local(self, shards: list[Reader], cache_usage_per_shard: NDArray[np.int64]) -> None:
        """Remove partial downloads of a killed run, and find which shards are present."""
        remove_drafts(self._path(""))
        super().set_up_local(shards, cache_usage_per_shard)

    def _prepare_shard_part(
        self, raw_info: FileInfo, zip_info: FileInfo | None = None, compression: str | None = None
    ) -> int:
        infos = [raw_info, zip_info] if zip_info else [raw_info]
        before = self._stored_bytes(infos)
        if zip_info is None:
            if self._usable(raw_info, can_be_replaced=not self._is_only_copy) is None:
                self._fetch_shard(raw_info)
        elif self._usable(raw_info, can_be_replaced=True) is None:
            zipped = self._usable(zip_info, can_be_replaced=not self._is_only_copy)
            self._unpack(zipped or self._fetch_shard(zip_info), raw_info, zip_info, compression)
        if zip_info and not self.safe_keep_zip:
            self._path(zip_info.basename).unlink(missing_ok=True)
        return self._stored_bytes(infos) - before

    @property
    def _is_only_copy(self) -> bool:
        return self.remote in {None, self.local}

    def _path(self, basename: str) -> Path:
        return Path(self.local, self.split, basename)

    def _origin(self, basename: str) -> str:
        """The path or URL of a file, for messages."""
        return "/".join(part for part in ((self.remote or self.local).rstrip("/"), self.split, basename) if part)

    def _stored_bytes(self, infos: Sequence[FileInfo]) -> int:
        return sum(info.bytes for info in infos if self._path(info.basename).exists())

    def _set_up_index(self) -> None:
        name = INDEX_NAME
        if not self._is_only_copy:
            self._fetch(name, self._read_index, self._check_index)
            return
        try:
            self._check_index(self._read_index(self._path(name)))
        except (OSError, DamagedError) as error:
            self._raise_unusable(name, error, attempts=1)

    def _read_index(self, path: Path) -> bytes:
        try:
            return read_small(path)
        except TooLargeError as error:
            raise UnusableFileError(self._origin(INDEX_NAME), f"is refused, since {error}", RESTORE) from error

    def _check_index(self, content: bytes) -> None:
        try:
            _, entries = parse_index(content)
            names = [each["basename"] for entry in entries for each in (entry["raw_data"], entry["zip_data"]) if each]
            stored = [(stored_file(entry), entry["samples"]) for entry in entries]
            listed = [(info["basename"], info["bytes"], rows) for info, rows in stored]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"it is no index of shards ({type(error).__name__}: {error})") from error
        for name in names:
            if not is_safe_name(name):
                raise DamagedError(f"it names {name!r}, which is no file beside it")
        recorded = [(record.basename, record.bytes, record.rows) for record in self._records]
        if recorded and listed != recorded:
            pairs = itertools.zip_longest(listed, recorded)
            number, (one, other) = next((number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1])
            raise DamagedError(
                f"it is not the one of the manifest beside it; they differ in shard {number:,}, which is "
                f"{_described(one)} in the index and {_described(other)} in the manifest"
            )

    def _usable(self, info: FileInfo, *, can_be_replaced: bool) -> bytes | None:
        """The content of a local file; None if it is missing, or was damaged and is deleted."""
        path = self._path(info.basename)
        try:
            content = _read_shard(path, info)
            self._check(content, info)
        except FileNotFoundError as error:
            if not can_be_replaced:
                self._raise_unusable(info.basename, error, attempts=1)
            return None
        except DamagedError as error:
            if not can_be_replaced:
                self._raise_unusable(info.basename, error, attempts=1)
            _log.warning("%s is damaged and will be replaced: %s", path, error)
            path.unlink()
            return None
        return content

    def _check(self, content: bytes, info: FileInfo) -> None:
        if len(content) != info.bytes:
            raise _of_another_size(len(content), info)
        if self.validate_hash:
            if self.validate_hash not in info.hashes:
                raise DamagedError(f"the index has no {self.validate_hash} of it, only {sorted(info.hashes)}")
            expected, found = info.hashes[self.validate_hash], get_hash(self.validate_hash, content)
            if found != expected:
                raise DamagedError(f"its {self.validate_hash} is {found}, not the {expected} that the index says")

    def _fetch_shard(self, info: FileInfo) -> bytes:
        return self._fetch(
            info.basename,
            lambda path: _read_shard(path, info),
            lambda content: self._check(content, info),
            num_bytes=info.bytes,
        )

    def _fetch(
        self,
        basename: str,
        read: Callable[[Path], bytes],
        check: Callable[[bytes], None],
        *,
        num_bytes: int | None = None,
    ) -> bytes:
        """Download a file into the cache, under its name once it has been checked; returns the content."""
        path, began, refusals, is_told = self._path(basename), time.monotonic(), 0, False
        exits = _exit_of(os.getpid())

        def ends(error: Exception) -> bool:
            nonlocal refusals
            refusals += is_refusal(error)  # the first one may be of credentials that have expired; clients are new now
            return exits.is_set() or (is_final(error) and (refusals != 1 or not is_refusal(error)))

        def may_pass(error: Exception) -> bool:
            nonlocal is_told
            left = self._patience - (time.monotonic() - began)
            if left <= 0 or not is_outage(error):
                return False
            if not is_told:
                what = f"{self._origin(basename)} cannot be reached ({describe_error(error)})"
                _log.warning("%s: it is asked again for up to %.0f s (data.download_patience)", what, left)
            is_told = True
            return True

        def fetch() -> bytes:
            try:
                with whole_file(path) as draft:
                    self._downloader.download(self._origin(basename), str(draft), self.download_timeout)
                    content = read(draft)
                    check(content)
            except Exception as error:
                self._downloader.clean_up()
                _raise_if_full(path, error, num_bytes)
                raise
            return content

        back_off = dataclasses.replace(
            _BACK_OFF,
            attempts=self.download_retry,
            patience=max(_LEAST_PATIENCE_SECONDS, self.download_retry * self.download_timeout, self._patience),
        )
        try:
            return back_off.run(fetch, is_final=ends, may_pass=may_pass, sleep=exits.wait)
        except GaveUpError as gave_up:
            if isinstance(gave_up.error, DataError):
                raise gave_up.error from gave_up.error.__cause__
            self._raise_unusable(basename, gave_up.error, attempts=gave_up.attempts)

    def _unpack(self, zipped: bytes, raw_info: FileInfo, zip_info: FileInfo, compression: str | None) -> None:
        path = self._path(raw_info.basename)
        try:
            content = _unpacked(zipped, raw_info, compression)
            self._check(content, raw_info)
            write_whole(path, content)
        except OSError as error:
            _raise_if_full(path, error, raw_info.bytes)
            raise
        except Exception as error:  # noqa: BLE001 (each decompressor has its own)
            if not self._is_only_copy:
                self._path(zip_info.basename).unlink(missing_ok=True)
            damage = error if isinstance(error, DamagedError) else DamagedError(describe_error(error))
            self._raise_unusable(zip_info.basename, damage, attempts=1)

    def _raise_unusable(self, basename: str, error: Exception, *, attempts: int) -> NoReturn:
        what, remedy = explain(error, attempts)
        raise UnusableFileError(self._origin(basename), what, remedy) from error


@cache
def _exit_of(process: int) -> threading.Event:
    """Set once this process ends, which joins the threads that wait here before it cleans up."""
    del process
    event = threading.Event()
    try:
        threading._register_atexit(event.set)  # pyright: ignore[reportAttributeAccessIssue]
    except RuntimeError:  # it ends already
        event.set()
    return event


def _read_shard(path: Path, info: FileInfo) -> bytes:
    """The content of a file, which may not fit into memory where it has more bytes than the index says."""
    if (size := path.stat().st_size) > info.bytes:
        raise _of_another_size(size, info)
    return path.read_bytes()


def _of_another_size(size: int, info: FileInfo) -> DamagedError:
    return DamagedError(f"it has {size:,} bytes, not the {info.bytes:,} that the index says")


def _unpacked(zipped: bytes, raw_info: FileInfo, compression: str | None) -> bytes:
    if compression is None or not is_compression(compression):
        raise DamagedError(f"its compression is {compression!r}, not zstd")
    content = unpack(zipped, raw_info.bytes)
    if len(content) > raw_info.bytes:
        raise DamagedError(f"it unpacks to more than the {raw_info.bytes:,} bytes that the index states")
    return content


def _raise_if_full(path: Path, error: Exception, num_bytes: int | None) -> None:
    if is_full_disk(error):
        raise DataError(
            f"{describe_full_disk(path, num_bytes=num_bytes)}: free space, or bound the cache with data.cache_limit, "
            "and run the same command again"
        ) from error


def _described(shard: tuple[str, int, int] | None) -> str:
    return "missing" if shard is None else f"{shard[0]} ({shard[1]:,} bytes, {shard[2]:,} rows)"
