"""A judge on this machine: speaks the chat completions protocol, counts, and fails where it is told to."""

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

    A fault is None (answer it), a status, `cut`: hang up in the middle of the answer, `page`: an answer in HTML, or
    `silent`: say nothing until `resumed` is set.
    """

    def __init__(self) -> None:
        self.fault: Callable[[int], int | str | None] = lambda number: None
        self.verdict: Callable[[str], str] = fair_verdict
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
                if fault == "page":
                    self._say(200, "<html>busy</html>", "text/html")
                elif isinstance(fault, int):
                    message = f"no, {self.headers.get('Authorization')} may not"
                    self._say(fault, json.dumps({"error": {"message": message}}), "application/json")
                else:
                    text = judge.verdict(asked["messages"][-1]["content"])
                    self._say(200, json.dumps(_completion(asked, text)), "application/json", cut=fault == "cut")

            def _say(self, status: int, text: str, kind: str, *, cut: bool = False) -> None:
                content = text.encode()
                with judge.lock:
                    judge.answered += status == 200 and not cut and kind != "text/html"
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
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


def _completion(asked: dict, text: str) -> dict:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": f"{asked['model']}-2024",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }
