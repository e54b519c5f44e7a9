"""An HTTP client whose requests are bounded in time and size, errors included."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import aclosing, closing
from functools import cache

import httpx

__all__ = ["LARGEST", "bounded_client"]

LARGEST = 8 << 20
"""Most bytes of a response: a stream takes some 300 a token."""


def bounded_client(timeout: float, longest: float) -> httpx.Client:
    """A client for a server that may never stop talking.

    Args:
        timeout: Seconds without data after which a request fails.
        longest: Seconds after which a request fails that is still under way: connection, headers and body together.
    """
    # Compressed, a small response may be a huge one.
    headers = {"Accept-Encoding": "identity"}
    return httpx.Client(transport=_Transport(longest), timeout=timeout, headers=headers)


@cache
def _tls() -> ssl.SSLContext:
    """Reads the certificates once, which takes longer than a request."""
    return httpx.create_ssl_context()


class _Transport(httpx.BaseTransport):
    """Each request has an event loop of its own, which a deadline can interrupt wherever it waits."""

    def __init__(self, longest: float) -> None:
        self._longest = longest

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        # Not asyncio.run, which waits for a name that is still being looked up.
        with closing(asyncio.new_event_loop()) as loop:
            try:
                return loop.run_until_complete(asyncio.wait_for(self._ask(request), self._longest))
            except TimeoutError:
                raise httpx.ReadTimeout(f"still under way after {self._longest:g} s", request=request) from None

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        # Unlike a transport alone, a client takes the proxies of the environment.
        client = httpx.AsyncClient(verify=_tls(), follow_redirects=True)
        async with client, aclosing(await client.send(request, stream=True)) as response:
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise httpx.RemoteProtocolError("the response is compressed, which was not asked for", request=request)
            content = bytearray()
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > LARGEST:
                    raise httpx.RemoteProtocolError(f"more than {LARGEST:,} bytes", request=request)
            return httpx.Response(response.status_code, headers=response.headers, content=bytes(content))
