"""A claim on a place in a store: who writes there says so in one object, and renews it for as long as it lives.

Object stores have no locks. The claim is created by a conditional put (If-None-Match). Not every store honours the
condition, which a second put shows: there, whoever wrote last holds the place, as all see after a short wait.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

from meap.errors import DataError
from meap.json_text import parse_json, require_types
from meap.places.folder import Folder
from meap.places.redaction import clean_arguments
from meap.processes import is_alive

__all__ = ["Claim", "StoreClaim", "held"]

_RENEW_SECONDS = 60.0
_STALE_SECONDS = 600.0
"""A claim that was not renewed for so long is that of a killed process; far above what clocks may differ by."""
_SETTLE_SECONDS = 2.0
"""How long writers to a store without conditional puts wait before they read who was last."""
_MOST_SHOWN = 200


class Claim:
    """Hold on a place, for as long as this process lives: a lock on a local folder."""

    def require(self) -> None:
        """Raise `DataError` if another process has taken the place over."""


@dataclass(frozen=True)
class _Holder:
    id: str
    pid: int
    host: str
    machine: str
    """Of one boot and one pid namespace: only there does `pid` mean something."""
    command: str
    since: float
    renewed: float

    @classmethod
    def of_this_process(cls) -> _Holder:
        now = time.time()
        command = shlex.join(clean_arguments(sys.argv))[:_MOST_SHOWN]
        return cls(uuid.uuid4().hex, os.getpid(), socket.gethostname(), _machine(), command, now, now)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @property
    def has_ended(self) -> bool:
        """Whether it was killed, as far as can be seen from here."""
        return self.silence > _STALE_SECONDS or (self.machine == _machine() and not is_alive(self.pid))

    @property
    def silence(self) -> float:
        return max(0.0, time.time() - self.renewed)

    def __str__(self) -> str:
        age, silence = (timedelta(seconds=max(0, round(each))) for each in (time.time() - self.since, self.silence))
        return f"process {self.pid} on {self.host} ({self.command}) for {age}, last heard of {silence} ago"


class StoreClaim(Claim):
    """Hold on a place in a store, renewed by a thread."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._holder = _Holder.of_this_process()
        self._over = threading.Event()
        self._may_be_there = False

    def require(self) -> None:
        """Raise `DataError` if another process has taken the place over."""
        other = self._read()
        if other is None or other.id != self._holder.id:
            raise DataError(
                f"{self._folder.url} was taken over by {other or 'another process'}: run one preparation at a time "
                "there; the same command continues"
            )

    def take(self) -> None:
        """Take the place if nobody holds it, or its holder has ended."""
        started, held = time.monotonic(), self._read()
        if held is not None and not held.has_ended:
            raise self._refusal(held)
        ours = self._holder.to_json()
        self._may_be_there = True  # from now on, also if a signal comes before the store has answered
        if held is None:
            is_new = self._folder.create(self._name, ours)
            is_conditional = not self._folder.create(self._name, ours) if is_new else True
        else:
            self._folder.write(self._name, ours)
            is_conditional = False
        if not is_conditional:
            time.sleep(max(_SETTLE_SECONDS, 3 * (time.monotonic() - started)))
        held = self._read()
        if held is None or held.id != self._holder.id:
            raise self._refusal(held)

    def keep(self) -> None:
        """Renew the claim until `release`; a claim that another process has taken over is left alone."""
        while not self._over.wait(_RENEW_SECONDS):
            with suppress(DataError):  # the store may be away for a while; what matters is written elsewhere
                self.require()
                self._folder.write(self._name, replace(self._holder, renewed=time.time()).to_json())

    def release(self) -> None:
        """Give the place up, if it was taken."""
        self._over.set()
        if not self._may_be_there:
            return
        with suppress(DataError):
            self.require()
            self._folder.remove(self._name)

    def _read(self) -> _Holder | None:
        content = self._folder.read(self._name)
        if content is None:
            return None
        try:
            holder = _Holder(**parse_json(content))
            require_types(holder)
        except (ValueError, TypeError) as error:
            url = self._folder.url_of(self._name)
            raise DataError(f"{url} is not readable ({error}): if nothing is prepared there, delete it") from error
        return holder

    def _refusal(self, holder: _Holder | None) -> DataError:
        minutes = round(_STALE_SECONDS / 60)
        return DataError(
            f"{self._folder.url} is being prepared by {holder or 'another process'}: wait for it, or end it; if it was "
            f"killed, its claim ends {minutes} minutes after it was last heard of, or at once if you delete "
            f"{self._folder.url_of(self._name)}"
        )


@contextmanager
def held(folder: Folder, name: str) -> Iterator[StoreClaim]:
    """Hold a place in a store while the body runs.

    Args:
        folder: The place.
        name: Path of the claim below it.

    Raises:
        DataError: Another process holds it, or the store cannot be used.
    """
    claim = StoreClaim(folder, name)
    try:
        claim.take()
        keeper = threading.Thread(target=claim.keep, name="claim", daemon=True)
        keeper.start()
        yield claim
    finally:
        claim.release()


def _machine() -> str:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()
