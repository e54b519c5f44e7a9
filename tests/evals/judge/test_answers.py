"""What a server sent, as text, model and tokens."""

import json

import pytest

from meap.evals.judge.answers import Answer, read_answer


def completion(content, **more):
    return json.dumps({"choices": [{"message": {"content": content}}], "model": "m"} | more)


def stream(*deltas, end='data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n', more=""):
    events = [f"data: {json.dumps({'choices': [{'delta': {'content': each}}]})}\n\n" for each in deltas]
    return "".join(events) + end + more


def test_a_whole_answer():
    usage = {"prompt_tokens": 3, "completion_tokens": 2.0}
    assert read_answer(completion("Score: 1", usage=usage)) == Answer("Score: 1", "m", (3, 2))
    assert read_answer(completion(None)) == Answer("", "m", None)


@pytest.mark.parametrize("head", ["", ": ping\n\n", "event: message\n", "\n\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_stream_is_the_answer_in_pieces(head, end):
    usage = 'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}, "model": "m"}\n\n'
    body = head + stream("Sco", None, [{"type": "text", "text": "re: 1"}], more=usage + "data: [DONE]\n\n")
    assert read_answer(body.replace("\n", end)) == Answer("Score: 1", "m", (3, 2))


def test_a_stream_may_end_by_its_mark_alone():
    assert read_answer(stream("x", end="data: [DONE]\n\n")).text == "x"


@pytest.mark.parametrize(
    "body",
    ["", "<html>", "{}", "[]", "7", '{"choices": []}', completion(7), completion({"text": "x"}), stream("cut", end=""),
     "data: {\n\n", "data: [DONE]\n\n", ": nothing\n\n", '{"error": {"message": "busy"}}',
     "data: 7\n\ndata: [DONE]\n\n"],
)  # fmt: skip
def test_what_is_no_answer_is_an_error(body):
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
        read_answer(body)
