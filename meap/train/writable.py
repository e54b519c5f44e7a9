"""Whether checkpoints can be written where they are to go, tried rather than assumed."""

from __future__ import annotations

import errno
import uuid
from pathlib import Path

import fsspec

from meap.errors import CheckpointError, first_line
from meap.storage import is_url

__all__ = ["require_writable"]


def require_writable(folder: str) -> None:
    """Write a tiny object where checkpoints will go, and take it away again.

    Args:
        folder: Local folder, which is made, or URL.

    Raises:
        CheckpointError: That fails.
    """
    probe = f"{folder.rstrip('/')}/.meap-can-write-{uuid.uuid4().hex[:8]}"
    try:
        filesystem, path = fsspec.core.url_to_fs(probe)
        if not is_url(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
        filesystem.pipe_file(path, b"meap")
        filesystem.rm_file(path)
    except Exception as error:
        raise CheckpointError(
            f"checkpoint.folder={folder} cannot be written ({type(error).__name__}: {first_line(error)}): "
            f"{_remedy(folder, error)}"
        ) from error


def _remedy(folder: str, error: BaseException) -> str:
    if not is_url(folder):
        return "choose a folder on a disk with room where you may write"
    if type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError"}:
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
    if isinstance(error, FileNotFoundError):
        return "create the bucket, or correct its name"
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EACCES:
        return "give these credentials leave to put, get and delete objects there"
    return "check the address, the endpoint (AWS_ENDPOINT_URL) and the credentials"
