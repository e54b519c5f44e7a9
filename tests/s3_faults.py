"""A store that fails as told: a proxy before a real one."""

import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class S3Faults:
    """A proxy before an S3 store: what `rule` says of a request (method, path, how often it was made) happens to it.

    A rule returns None (forward it), a status to answer with, a status and the code that S3 gives for it, or one of

        cut     read half of the request's body and hang up
        stall   read it all, and answer only when `resumed` is set
        mute    do as asked, but do not answer before `resumed` is set
        reset   read it all, and break the connection off
        half    answer with the right headers and half of the body, and hang up
        short   answer with half of the body as if it were the whole
        flip    answer with one bit of the body flipped
        late    answer after 200 ms
    """

    def __init__(self, store: str) -> None:
        self.rule: Callable[[str, str, int], int | str | tuple[int, str] | None] = lambda *_: None
        self.resumed = threading.Event()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.keys: list[str] = []
        """Access key of each request."""
        self.sent: Counter[tuple[str, str]] = Counter()
        """Bytes of answers."""
        faults, (host, port) = self, store.removeprefix("http://").split(":")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                key = (self.command, self.path.partition("?")[0])
                faults.requests[key] += 1
                signed = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
                faults.keys.append(signed[1] if signed else "")
                fault = faults.rule(*key, faults.requests[key])
                size = int(self.headers.get("Content-Length") or 0)
                if fault == "cut":
                    self.rfile.read(size // 2)
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                body = self.rfile.read(size)
                if fault == "stall":
                    faults.resumed.wait()
                    self.close_connection = True
                    return
                if fault == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                if isinstance(fault, (int, tuple)):
                    status, code = fault if isinstance(fault, tuple) else (fault, "")
                    content = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(content)
                    return
                if fault == "late":
                    time.sleep(0.2)
                with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=60)) as upstream:
                    upstream.request(self.command, self.path, body, dict(self.headers))
                    response = upstream.getresponse()
                    content = response.read()
                sent = content
                if fault == "mute":
                    faults.resumed.wait()
                    self.close_connection = True
                    return
                if fault in {"half", "short"}:
                    sent = content[: len(content) // 2]
                elif fault == "flip" and content:
                    sent = content[:-1] + bytes([content[-1] ^ 1])
                faults.sent[key] += len(sent)
                self.send_response(response.status)
                left_out = {"transfer-encoding", "connection", "content-length"}
                for name, value in response.getheaders():
                    # What older stores do not send would give damage away before our own hashes do.
                    if name.lower() not in left_out and (sent is content or not name.startswith("x-amz-checksum")):
                        self.send_header(name, value)
                length = response.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(content if fault == "half" else sent)))
                self.end_headers()
                self.wfile.write(sent)
                self.close_connection = fault == "half"

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
