"""One object-storage endpoint for every library: each reads a variable of its own."""

from __future__ import annotations

import os

__all__ = ["use_one_s3_endpoint"]

_ENDPOINT_VARIABLES = ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL")


def use_one_s3_endpoint() -> None:
    """Copy the S3 endpoint between ``S3_ENDPOINT_URL`` (streaming, Composer) and ``AWS_ENDPOINT_URL`` (s3fs, boto3).

    Changes the environment of this process and of those it starts; call it from an entry point, before any of those
    libraries connects. Does nothing where neither is set or both are.
    """
    endpoint = next((os.environ[name] for name in _ENDPOINT_VARIABLES if os.environ.get(name)), None)
    if endpoint is not None:
        for name in _ENDPOINT_VARIABLES:
            os.environ.setdefault(name, endpoint)
