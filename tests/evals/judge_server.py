"""A judge on this machine: speaks the chat completions protocol, counts, and fails where it is told to."""

import gzip
import json
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_TEXT = re.compile(r"\[([A-Z ]+) [0-9a-f]{8}\]\n(.*?)\n\[END OF ", re.DOTALL)


def fair_verdict(prompt: str) -> str:
    """Right where the reference stands in the output, or, if that is asked, where output or reference in the other."""
    texts = dict(_TEXT.findall(prompt))
    if "PROPOSED SUMMARY" in texts:
        supported = texts["REFERENCE SUMMARY"] in texts["PROPOSED SUMMARY"]
        return f"I have read both.\nConclusion: {supported}"
    return f"I have read both.\nScore: {int(texts['REFERENCE SUMMARY'] in texts['MODEL OUTPUT'])}"


class JudgeServer:
    """What `fault` says of a request (its number, from 1) happens to it.

    A fault is None (answer it), a status, `cut`: hang up in the middle of the answer, `page`: an answer in HTML,
    `silent`: say nothing until `resumed` is set, `endless`: never stop, `slow`: never stop, a byte at a time, `zipped`:
    an answer that grows, `streamed`: an answer in pieces, or `only streams`: refuse requests that ask for no stream.
    """

    def __init__(self) -> None:
        self.fault: Callable[[int], int | str | None] = lambda number: None
        self.verdict: Callable[[str], object] = fair_verdict
        self.usage: object = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        self.prompts: list[str] = []
        self.bodies: list[str] = []
        self.keys: set[str | None] = set()
        self.headers: dict[str, str] = {}
        self.answered = 0
        self.at_once = self.most_at_once = 0
        self.resumed = threading.Event()
        self.lock = threading.Condition()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                asked = json.loads(body)
                with judge.lock:
                    judge.bodies.append(body)
                    judge.prompts.append(asked["messages"][-1]["content"])
                    judge.keys.add(self.headers.get("Authorization"))
                    number = len(judge.prompts)
                    judge.at_once += 1
                    judge.most_at_once = max(judge.most_at_once, judge.at_once)
                    judge.lock.notify_all()
                fault = judge.fault(number)
                with judge.lock:
                    judge.at_once -= 1
                if fault == "silent":
                    judge.resumed.wait()
                    self.close_connection = True
                    return
                if fault == "only streams":
                    wants = json.loads(body)
                    if not wants.get("stream"):
                        message = "This model only supports stream mode, please enable the stream parameter"
                        self._say(400, json.dumps({"error": {"message": message}}), "application/json")
                        return
                    fault = "streamed"
                if fault in {"endless", "slow"}:
                    self._go_on(slowly=fault == "slow")
                elif fault == "zipped":
                    self._say(200, "", "application/json", zipped=True)
                elif fault == "streamed":
                    text = judge.verdict(asked["messages"][-1]["content"])
                    self._say(200, _streamed(asked, text, judge.usage), "text/event-stream; charset=utf-8")
                elif fault == "page":
                    self._say(200, "<html>busy</html>", "text/html")
                elif isinstance(fault, int):
                    message = f"no, {self.headers.get('Authorization')} may not"
                    self._say(fault, json.dumps({"error": {"message": message}}), "application/json")
                else:
                    text = judge.verdict(asked["messages"][-1]["content"])
                    self._say(
                        200, json.dumps(_completion(asked, text, judge.usage)), "application/json", cut=fault == "cut"
                    )

            def _go_on(self, *, slowly: bool) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.close_connection = True
                while not judge.resumed.wait(0.01 if slowly else 0):
                    try:
                        self.wfile.write(b" " * (1 if slowly else 1 << 20))
                    except OSError:
                        return

            def _say(self, status: int, text: str, kind: str, *, cut: bool = False, zipped: bool = False) -> None:
                content = gzip.compress(b" " * (16 << 20)) if zipped else text.encode()
                with judge.lock:
                    judge.answered += status == 200 and not cut and kind != "text/html"
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                if zipped:
                    self.send_header("Content-Encoding", "gzip")
                for name, value in judge.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that was killed

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def wait_for(self, number: int) -> None:
        """Return when so many requests have come."""
        with self.lock:
            assert self.lock.wait_for(lambda: len(self.prompts) >= number, timeout=60), f"only {len(self.prompts)} came"

    def close(self) -> None:
        self.resumed.set()
        self.server.shutdown()
        self.server.server_close()


def _streamed(asked: dict, text: str, usage: object) -> str:
    """Server-sent events, as servers send them: comments between, pieces, then usage without a choice."""
    pieces = [text[start : start + 7] for start in range(0, len(text), 7)]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": f"{asked['model']}-2024"}
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces), {}]
    ends = [None] * (len(deltas) - 1) + ["stop"]
    events = [
        head | {"choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
        for delta, end in zip(deltas, ends, strict=True)
    ]
    events.append(head | {"choices": [], "usage": usage})
    return ": ping\n\n" + "".join(f"data: {json.dumps(each)}\n\n" for each in events) + "data: [DONE]\n\n"


def _completion(asked: dict, text: object, usage: object) -> dict:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": f"{asked['model']}-2024",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }
