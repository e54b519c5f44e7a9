"""An HTTP client whose responses are bounded in time and size, errors included."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx

__all__ = ["LARGEST", "bounded_client"]

LARGEST = 8 << 20
"""Most bytes of a response: a stream takes some 300 a token."""


def bounded_client(timeout: float, longest: float) -> httpx.Client:
    """A client for a server that may never stop talking.

    Args:
        timeout: Seconds without data after which a request fails.
        longest: Seconds after which a response fails that is still arriving.
    """
    # Compressed, a small response may be a huge one.
    headers = {"Accept-Encoding": "identity"}
    return httpx.Client(transport=_Transport(longest), timeout=timeout, headers=headers, follow_redirects=True)


class _Transport(httpx.HTTPTransport):
    def __init__(self, longest: float) -> None:
        super().__init__(trust_env=True)
        self._longest = longest

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        ends = time.monotonic() + self._longest
        response = super().handle_request(request)
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise httpx.RemoteProtocolError("the response is compressed, which was not asked for", request=request)
        stream: Any = response.stream
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Stream(stream, request, ends, self._longest),
            extensions=response.extensions,
        )


class _Stream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, request: httpx.Request, ends: float, longest: float) -> None:
        self._stream = stream
        self._request = request
        self._ends = ends
        self._longest = longest

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._stream:
            size += len(piece)
            if size > LARGEST:
                raise httpx.RemoteProtocolError(f"more than {LARGEST:,} bytes", request=self._request)
            if time.monotonic() > self._ends:
                raise httpx.ReadTimeout(f"still arriving after {self._longest:g} s", request=self._request)
            yield piece

    def close(self) -> None:
        self._stream.close()
