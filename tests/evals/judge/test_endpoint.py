"""Requests to a judge on this machine that fails in every way it can."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from threading import Condition, Event, Thread
from time import monotonic

import openai
import pytest

from meap.config import JudgeConfig
from meap.errors import ConfigError, JudgeError
from meap.evals.judge.budget import Budget
from meap.evals.judge.endpoint import Endpoint, most_tokens
from meap.evals.judge.replies import ReplyStore

PRICE = (1000 * 1 + 100 * 10) / 1e6
"""Of each reply of the server, in dollars."""
PROMPTS = [f"prompt {index}" for index in range(6)]


@pytest.fixture
def config(judge_server):
    judge_server.verdict = lambda prompt: f"I read {prompt}"
    return JudgeConfig(
        model="judge",
        base_url=judge_server.url,
        key_variable="MEAP_TEST_KEY",
        input_price=1,
        output_price=10,
        retries=2,
        backoff=0,
        timeout=30,
    )


@pytest.fixture
def ask(config, tmp_path):
    def ask(prompts=PROMPTS, **changes):
        endpoint = Endpoint(dataclasses.replace(config, **changes))
        return endpoint.ask(prompts, ReplyStore(tmp_path / "judge.jsonl"))

    return ask


def test_every_prompt_gets_its_reply(ask, judge_server):
    replies = ask([*PROMPTS, PROMPTS[0]])
    assert {prompt: reply.text for prompt, reply in replies.items()} == {each: f"I read {each}" for each in PROMPTS}
    assert sorted(judge_server.prompts) == PROMPTS
    assert all(reply.model == "judge-2024" and reply.date.endswith("+00:00") for reply in replies.values())
    assert sum(reply.dollars for reply in replies.values()) == pytest.approx(6 * PRICE)
    [body] = {json.dumps({**json.loads(each), "messages": []}) for each in judge_server.bodies}
    assert json.loads(body) == {"messages": [], "model": "judge", "temperature": 0, "max_tokens": 1024}


def test_nothing_is_asked_twice_but_of_another_judge(ask, judge_server):
    ask()
    ask(PROMPTS[:3])
    assert len(judge_server.prompts) == 6
    ask([*PROMPTS, "one more"])
    assert judge_server.prompts[6:] == ["one more"]
    ask(PROMPTS[:1], model="another")
    ask(PROMPTS[:1], max_new_tokens=5)
    assert len(judge_server.prompts) == 9


@pytest.mark.slow
@pytest.mark.parametrize("fault", [429, 500, 503, 408, "cut", "page"])
def test_what_fails_for_once_is_asked_again(ask, judge_server, fault):
    judge_server.fault = lambda number: fault if number in {1, 2} else None
    assert len(ask(parallel=1)) == 6
    assert len(judge_server.prompts) == 8


def test_a_silent_server_is_asked_again(ask, judge_server):
    judge_server.fault = lambda number: "silent" if number == 1 else None
    assert set(ask(PROMPTS[:1], timeout=0.5)) == {PROMPTS[0]}
    assert len(judge_server.prompts) == 2


class _Recorder(Event):
    """Waits for no time at all, and notes for how long it was to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return False


def test_a_server_says_how_long_to_wait(config, judge_server, tmp_path):
    stopped = _Recorder()
    judge_server.headers = {"Retry-After": "7"}
    judge_server.fault = lambda number: 429 if number <= 2 else None
    endpoint = Endpoint(dataclasses.replace(config, backoff=1, parallel=1))
    with openai.OpenAI(api_key="k", base_url=config.base_url, max_retries=0) as client:
        endpoint._ask(client, "p", "key", ReplyStore(tmp_path / "judge.jsonl"), Budget(1, 0), stopped)
    assert stopped.waits == [7, 7]


@pytest.mark.parametrize(
    ("fault", "reason"), [(429, "status 429"), (500, "status 500"), ("cut", "RemoteProtocolError"), ("page", "malform")]
)
def test_what_fails_for_good_is_one_clear_error_and_nothing_is_lost(ask, judge_server, fault, reason):
    judge_server.fault = lambda number: fault if number > 3 else None
    with pytest.raises(JudgeError, match=f"has not answered in 3 attempts .*{reason}.*replies so far are kept"):
        ask(parallel=1)
    assert len(judge_server.prompts) == 3 + 3
    judge_server.fault = lambda number: None
    assert len(ask()) == 6
    assert judge_server.answered == 6, "each prompt was answered once"


def test_nobody_there_is_one_clear_error(ask, judge_server, unused_port):
    with pytest.raises(JudgeError, match="has not answered in 2 attempts .*ConnectError"):
        ask(base_url=f"http://127.0.0.1:{unused_port}/v1", retries=1)


@pytest.fixture
def unused_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        yield taken.getsockname()[1]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_repeated(ask, judge_server, status):
    judge_server.fault = lambda number: status
    with pytest.raises(JudgeError, match=f"refuses a request .status {status}.*check judge.model=judge and"):
        ask(parallel=1)
    assert len(judge_server.prompts) == 1


def test_the_cost_cap_is_never_exceeded_and_a_higher_one_goes_on(ask, judge_server, tmp_path):
    most = (most_tokens(PROMPTS[0]) * 1 + 1024 * 10) / 1e6
    cap = most + 2.5 * PRICE  # the fourth could exceed it
    with pytest.raises(
        JudgeError,
        match=r"judge.max_cost=0\.\d+ dollars: 0.0060 are spent, .* could cost 0.0103; .* raise judge.max_cost",
    ):
        ask(max_cost=cap)
    assert ReplyStore(tmp_path / "judge.jsonl").spent == pytest.approx(3 * PRICE)
    assert len(judge_server.prompts) == 3
    with pytest.raises(JudgeError, match="0.0060 are spent"):
        ask(max_cost=cap)
    assert len(judge_server.prompts) == 3, "what earlier runs have spent counts"
    assert len(ask(max_cost=1)) == 6
    assert sorted(judge_server.prompts) == PROMPTS


def test_what_costs_nothing_needs_no_money(ask):
    assert len(ask(max_cost=0, input_price=0, output_price=0)) == 6


def test_an_answer_that_was_cut_may_have_been_paid(ask, judge_server, tmp_path):
    judge_server.fault = lambda number: "cut" if number == 1 else None
    ask(PROMPTS[:1])
    most = (most_tokens(PROMPTS[0]) * 1 + 1024 * 10) / 1e6
    assert ReplyStore(tmp_path / "judge.jsonl").spent == pytest.approx(most + PRICE)


BAD_COUNTS = (-5, -1e9, float("nan"), float("inf"), float("-inf"), None, "12", True, [1])


@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "usage"])
@pytest.mark.parametrize("count", BAD_COUNTS, ids=str)
def test_usage_that_cannot_be_costs_what_the_request_could(ask, judge_server, tmp_path, name, count):
    """Neither a negative cost nor one that is no number may lift the cap, in this evaluation or a later one."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    judge_server.usage = count if name == "usage" else usage | {name: count}
    most = (most_tokens(PROMPTS[0]) * 1 + 1024 * 10) / 1e6
    ask(PROMPTS[:1])
    assert ReplyStore(tmp_path / "judge.jsonl").spent == pytest.approx(most)
    with pytest.raises(JudgeError, match="judge.max_cost=0.02 dollars"):
        ask(max_cost=0.02, parallel=1)
    assert len(judge_server.prompts) == 1 + 0, "another request could exceed the cap"


def test_a_cost_on_disk_that_cannot_be_lifts_no_cap(ask, judge_server, tmp_path):
    ask(PROMPTS[:1])
    path = tmp_path / "judge.jsonl"
    stored = json.loads(path.read_text())
    for dollars in (-1e9, float("nan"), float("-inf")):
        path.write_text(path.read_text() + json.dumps(stored | {"key": str(dollars), "dollars": dollars}) + "\n")
    assert ReplyStore(path).spent == pytest.approx(PRICE)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "Score: "}, {"type": "text", "text": "1"}], "Score: 1"),
        ([{"type": "thinking", "thinking": "hm"}, "Score: 0"], "Score: 0"),
        ([], ""),
        (None, ""),
    ],
)
def test_content_in_parts_is_read_as_text(ask, judge_server, content, text):
    judge_server.verdict = lambda prompt: content
    for _ in range(2):  # the second time from the disk
        assert [reply.text for reply in ask(PROMPTS[:1]).values()] == [text]
    assert len(judge_server.prompts) == 1


def test_a_stored_reply_that_is_no_text_is_asked_for_again(ask, judge_server, tmp_path):
    ask(PROMPTS[:1])
    path = tmp_path / "judge.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text": ["Score: 1"]}) + "\n")
    assert [reply.text for reply in ask(PROMPTS[:1]).values()] == ["I read prompt 0"]
    assert ReplyStore(path).spent == pytest.approx(2 * PRICE)


@pytest.mark.parametrize("content", [{"text": "x"}, 7])
def test_content_that_is_no_text_is_a_malformed_reply(ask, judge_server, content):
    judge_server.verdict = lambda prompt: content
    with pytest.raises(JudgeError, match="has not answered in 1 attempts .a malformed reply, TypeError"):
        ask(PROMPTS[:1], retries=0)


@pytest.mark.parametrize("fault", ["streamed", "only streams"])
def test_servers_that_only_stream_are_understood(ask, judge_server, fault):
    judge_server.fault = lambda number: fault
    replies = ask()
    assert {prompt: reply.text for prompt, reply in replies.items()} == {each: f"I read {each}" for each in PROMPTS}
    assert all(reply.model == "judge-2024" for reply in replies.values())
    assert sum(reply.dollars for reply in replies.values()) == pytest.approx(6 * PRICE)
    refused = 0 if fault == "streamed" else sum("stream" not in json.loads(body) for body in judge_server.bodies)
    assert len(judge_server.prompts) == 6 + refused
    assert refused <= 6


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("endless", "RemoteProtocolError"), ("slow", "Request timed out"), ("zipped", "RemoteProtocolError")],
)
def test_no_reply_takes_for_ever_or_fills_the_memory(ask, judge_server, tmp_path, fault, reason):
    judge_server.fault = lambda number: fault
    with pytest.raises(JudgeError, match=f"has not answered in 1 attempts .*{reason}"):
        ask(PROMPTS[:1], retries=0, timeout=0.5 if fault == "slow" else 30, longest=0.6 if fault == "slow" else 60)
    most = (most_tokens(PROMPTS[0]) * 1 + 1024 * 10) / 1e6
    assert ReplyStore(tmp_path / "judge.jsonl").spent == pytest.approx(most), "it may have been paid for"


@pytest.fixture
def dripping():
    """A server that sends a beginning, and then a byte each hundredth of a second for ever; as a function of these."""
    stopped = Event()

    def serve(listening, start, drop):
        with listening, listening.accept()[0] as connection:
            try:
                connection.sendall(start)
                while not stopped.wait(0.01):
                    connection.sendall(drop)
            except OSError:
                pass  # the client has hung up

    def start(start, drop):
        listening = socket.create_server(("127.0.0.1", 0))
        serving = Thread(target=serve, args=(listening, start, drop), daemon=True)
        serving.start()
        return listening.getsockname()[1], serving

    yield start
    stopped.set()


@pytest.mark.parametrize(
    ("scheme", "start", "drop"),
    [
        ("http", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
        ("http", b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        ("http", b"HTTP/1.1 2", b"0"),
        ("http", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("http", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        ("https", b"\x16\x03\x03\x40\x00", b"\0"),
    ],
    ids=["a header", "headers", "the status", "goes on", "the body", "the handshake"],
)
def test_a_server_that_drips_is_left_in_time(ask, dripping, scheme, start, drop):
    """Each byte is in time; it is the request as a whole that takes for ever."""
    port, serving = dripping(start, drop)
    began = monotonic()
    with pytest.raises(JudgeError, match="has not answered in 1 attempts .*timed out"):
        ask(PROMPTS[:1], base_url=f"{scheme}://127.0.0.1:{port}/v1", retries=0, timeout=0.5, longest=0.6)
    assert monotonic() - began < 20
    serving.join(timeout=20)
    assert not serving.is_alive(), "the connection is closed"


def test_requests_run_side_by_side_and_no_more_than_asked(ask, judge_server):
    both = Condition()

    def wait_for_the_other(number):
        with both:
            both.notify_all()
            assert both.wait_for(lambda: len(judge_server.prompts) >= min(6, number + number % 2), timeout=60)

    judge_server.fault = wait_for_the_other
    ask(parallel=2)
    assert judge_server.most_at_once == 2


@pytest.mark.slow
def test_a_killed_run_asks_nothing_twice(config, ask, judge_server, tmp_path, project_root):
    judge_server.fault = lambda number: "silent" if number > 4 else None
    code = (
        "import sys, json\n"
        "from pathlib import Path\n"
        "from meap.config import JudgeConfig\n"
        "from meap.evals.judge.endpoint import Endpoint\n"
        "from meap.evals.judge.replies import ReplyStore\n"
        "config, prompts, path = json.loads(sys.argv[1])\n"
        "Endpoint(JudgeConfig(**config)).ask(prompts, ReplyStore(Path(path)))\n"
    )
    values = dataclasses.asdict(dataclasses.replace(config, parallel=1))
    arguments = json.dumps([values, PROMPTS, str(tmp_path / "judge.jsonl")])
    environment = os.environ | {"PYTHONPATH": str(project_root)}
    with subprocess.Popen([sys.executable, "-c", code, arguments], env=environment) as process:
        judge_server.wait_for(5)
        process.send_signal(signal.SIGKILL)
    judge_server.fault = lambda number: None
    path = tmp_path / "judge.jsonl"
    assert len(path.read_text().splitlines()) == 4
    # As if it had been killed while it wrote.
    path.write_text(path.read_text() + '{"key": "torn", "te')
    assert len(ask()) == 6
    assert judge_server.answered == 6
    assert sorted(set(judge_server.prompts)) == PROMPTS
    assert len(judge_server.prompts) == 7, "only the one that was never answered was asked again"


def test_the_key_is_sent_and_written_nowhere(ask, judge_server, tmp_path, capfd, caplog):
    caplog.set_level("DEBUG")
    judge_server.fault = lambda number: 401 if number == 8 else 500 if number == 2 else None
    ask()
    with pytest.raises(JudgeError, match="no, Bearer .* may not") as failed:
        ask(["one more"])
    assert judge_server.keys == {"Bearer sk-secret-of-the-tests"}
    captured = capfd.readouterr()
    told = [str(failed.value), captured.out, captured.err, caplog.text]
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    for text in [*told, *written]:
        assert "sk-secret" not in text


def test_a_key_that_is_not_there_is_found_out_at_once(config, monkeypatch):
    for value in (None, " "):
        monkeypatch.setenv("MEAP_TEST_KEY", value) if value else monkeypatch.delenv("MEAP_TEST_KEY")
        with pytest.raises(ConfigError, match="judge.key_variable=MEAP_TEST_KEY: the environment has no such variable"):
            Endpoint(config)
    Endpoint(dataclasses.replace(config, key_variable=None))
