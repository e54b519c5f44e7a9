"""Every documented notation of a conversation becomes the same messages, and no text of a record is lost unsaid.

Sources are named where a rule comes from; the examples are written anew.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meap.answers import answer_spans
from meap.config import TokenizerConfig
from meap.prep.sft.messages import RecordError, format_of, parse_record, to_messages, without_first_answers
from meap.prep.sft.rendering import ChatTemplate
from meap.prep.sft.templates import DEFAULT_TEMPLATE
from meap.prep.sft.turns import ROLES
from meap.tokenizer import load_tokenizer
from tests.prep.plain_streaming import open_plain

NOTATIONS = [("from", "value"), ("role", "content"), ("role", "value"), ("from", "content")]
LISTS = {"conversations": "sharegpt", "messages": "messages"}
USER = {"role": "user", "content": "How deep is the harbour?"}
ANSWER = {"role": "assistant", "content": "Nine metres."}
CALL = {"name": "depth_of", "arguments": {"place": "harbour", "tide": 2}}
CALLS = [{"type": "function", "function": CALL}]
SCHEMA = {
    "name": "depth_of",
    "description": "Measures a depth.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}
TOOLS = [{"type": "function", "function": SCHEMA}]
RECORDS = {
    "alpaca": {"instruction": "a", "output": "b"},
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "messages": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "prompt_completion": {"prompt": "a", "completion": "b"},
}
QUESTION = {"alpaca": {"role": "user", "content": "a", "input": ""}}
SAID = {
    form: [QUESTION.get(form, {"role": "user", "content": "a"}), {"role": "assistant", "content": "b"}]
    for form in RECORDS
}


def chat(*turns: dict) -> dict:
    return {"messages": list(turns)}


@pytest.mark.parametrize("form", RECORDS)
def test_every_format_says_the_same_and_is_found(form):
    assert to_messages(RECORDS[form], form) == SAID[form]
    assert format_of(RECORDS[form]) == form
    assert all((format_of(RECORDS[form], wanted) == form) == (wanted == form) for wanted in RECORDS)


def test_a_record_of_several_formats_is_read_as_the_first_that_is_filled():
    everything = {key: value for record in RECORDS.values() for key, value in record.items()}
    assert format_of(everything) == "messages"
    assert [format_of(everything, wanted) for wanted in RECORDS] == list(RECORDS)
    assert format_of(everything | {"messages": None, "conversations": None}) == "alpaca"
    assert format_of({"question": "a"}) is None


@pytest.mark.parametrize(
    ("name", "notation", "key"), [each for each in product(ROLES, NOTATIONS, LISTS) if each[0] != "function_call"]
)
def test_every_spelling_of_a_role_means_one_role_in_every_notation(name, notation, key):
    role_key, content_key = notation
    turns = [
        {role_key: "user", content_key: "a"},
        {role_key: name, content_key: "b"},
        {role_key: "assistant", content_key: "c"},
    ]
    parsed = parse_record({key: turns}, LISTS[key])
    assert parsed.messages[1] == {"role": ROLES[name], "content": "b"}
    assert parsed.unread == ()


@pytest.mark.parametrize("spaces", ["", "\n "])
@pytest.mark.parametrize("form", [form for form in RECORDS if form != "alpaca"])
def test_lists_may_be_stored_as_json_in_a_string(form, spaces):
    """axolotl, "Conversation"."""
    lists = {"sharegpt": ["conversations"], "messages": ["messages"], "prompt_completion": ["prompt", "completion"]}
    record = RECORDS[form] if form != "prompt_completion" else {"prompt": SAID[form][:1], "completion": SAID[form][1:]}
    stored = {key: spaces + json.dumps(record[key]) for key in lists[form]}
    assert to_messages(record | stored, form) == SAID[form]


@pytest.mark.parametrize("form", RECORDS)
@pytest.mark.parametrize("empty", ["", None])
def test_a_system_prompt_beside_the_conversation_comes_first(form, empty):
    """LLaMA-Factory, data/README.md: `system`; a system message among the turns takes its place."""
    parsed = parse_record(RECORDS[form] | {"system": "Be brief."}, form)
    assert parsed.messages == [{"role": "system", "content": "Be brief."}, *SAID[form]]
    assert parsed.unread == ()
    assert to_messages(RECORDS[form] | {"system": empty}, form) == SAID[form]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_takes_the_place_of_the_field_which_is_named(role):
    turns = chat({"role": role, "content": "Be brief."}, USER, ANSWER)
    for system, unread in (("Be long.", ("system",)), ("Be brief.", ())):
        parsed = parse_record(turns | {"system": system}, "messages")
        assert parsed.messages == [{"role": "system", "content": "Be brief."}, USER, ANSWER]
        assert parsed.unread == unread


@pytest.mark.parametrize("store", [json.dumps, list])
def test_the_history_of_alpaca_precedes_the_question_and_is_learned(store):
    """LLaMA-Factory, data/README.md: "the responses in the history will also be learned by the model"."""
    record = RECORDS["alpaca"] | {"history": store([["c", "d"], ["e", "f"]]), "input": "g", "system": "h"}
    assert to_messages(record, "alpaca") == [
        {"role": "system", "content": "h"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
        {"role": "user", "content": "e"},
        {"role": "assistant", "content": "f"},
        {"role": "user", "content": "a", "input": "g"},
        {"role": "assistant", "content": "b"},
    ]
    for empty in ([], "", None):
        assert to_messages(RECORDS["alpaca"] | {"history": empty}, "alpaca") == SAID["alpaca"]


WRAPPED, BARE = {"type": "function", "function": SCHEMA}, SCHEMA
PARAMETERS_IN_A_STRING = {"type": "function", "function": SCHEMA | {"parameters": json.dumps(SCHEMA["parameters"])}}


@pytest.mark.parametrize("form", RECORDS)
@pytest.mark.parametrize("field", ["tools", "functions"])
@pytest.mark.parametrize(
    "tool", [WRAPPED, BARE, SCHEMA | {"type": "function"}, PARAMETERS_IN_A_STRING, WRAPPED | {"x": None}]
)
@pytest.mark.parametrize("store", [lambda tools: tools, json.dumps, lambda tools: [json.dumps(each) for each in tools]])
def test_tools_beside_the_conversation_become_schemas_of_functions(form, field, tool, store):
    """LLaMA-Factory, TRL and axolotl: `tools`, a list or its JSON; OpenAI: the deprecated `functions`."""
    parsed = parse_record(RECORDS[form] | {field: store([tool])}, form)
    assert (parsed.messages, parsed.tools, parsed.unread) == (SAID[form], TOOLS, ())


@pytest.mark.parametrize("none", [None, "", "[]", [], " "])
def test_no_tools_are_none(none):
    assert parse_record(RECORDS["messages"] | {"tools": none, "functions": none}, "messages").tools is None


@pytest.mark.parametrize(
    "arguments", [CALL["arguments"], json.dumps(CALL["arguments"]), CALL["arguments"] | {"x": None}]
)
@pytest.mark.parametrize("wrap", [lambda call: {"type": "function", "function": call}, lambda call: call])
@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": []}])
def test_tool_calls_become_those_of_transformers(arguments, wrap, content):
    """OpenAI's API reference and TRL's "Tool Calling": arguments as a string or object, content null or left out."""
    call = CALL | {"arguments": arguments}
    turns = [USER, {"role": "assistant", **content, "tool_calls": [wrap(call) | {"id": "call00001"}]}]
    result = {"role": "tool", "tool_call_id": "call00001", "name": "depth_of", "content": "9"}
    parsed = parse_record(chat(*turns, result, ANSWER), "messages")
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001"} | CALLS[0]]}
    assert parsed.messages == [USER, called, result, ANSWER]
    assert parsed.unread == ()


@pytest.mark.parametrize("store", [json.dumps, lambda value: value])
def test_a_null_that_json_in_a_string_spells_is_kept(store):
    """Columns of parquet give each object the fields of all, so that elsewhere null is the same as absent."""
    call = {"name": "f", "arguments": {"x": None, "y": [{"z": None}]}}
    parsed = parse_record(
        chat(USER, {"role": "assistant", "tool_calls": store([call])}, ANSWER)
        | {"tools": store([{"name": "f", "x": None}])},
        "messages",
    )
    is_exact = store is json.dumps
    assert parsed.messages[1]["tool_calls"][0]["function"] == (
        call if is_exact else {"name": "f", "arguments": {"y": [{}]}}
    )
    assert parsed.tools == [{"type": "function", "function": {"name": "f"} | ({"x": None} if is_exact else {})}]


def test_the_deprecated_form_of_calls_and_results():
    """OpenAI's API reference: `function_call`, role `function`."""
    call = {"role": "assistant", "content": None, "function_call": CALL | {"arguments": json.dumps(CALL["arguments"])}}
    parsed = parse_record(
        chat(USER, call, {"role": "function", "name": "depth_of", "content": "9"}, ANSWER), "messages"
    )
    assert parsed.messages == [
        USER,
        {"role": "assistant", "content": "", "tool_calls": CALLS},
        {"role": "tool", "content": "9", "name": "depth_of"},
        ANSWER,
    ]
    assert parsed.unread == ()


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (json.dumps(CALL), "", CALLS),
        (json.dumps([CALL, CALL]), "", CALLS * 2),
        ("<think>\nhm\n</think>\n\n" + json.dumps(CALL), "<think>\nhm\n</think>", CALLS),
    ],
)
def test_calls_and_observations_of_llama_factory(text, content, calls):
    """LLaMA-Factory, data/README.md (`function_call`, `observation`), and its example glaive_toolcall_en_demo."""
    turns = [("human", "a"), ("function_call", text), ("observation", "9"), ("gpt", "b")]
    record = {"conversations": [{"from": name, "value": value} for name, value in turns], "tools": json.dumps([SCHEMA])}
    parsed = parse_record(record, "sharegpt")
    assert parsed.messages == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": content, "tool_calls": calls},
        {"role": "tool", "content": "9"},
        {"role": "assistant", "content": "b"},
    ]
    assert (parsed.tools, parsed.unread) == (TOOLS, ())


FLAGS = ("weight", "train", "training", "trainable")


@pytest.mark.parametrize(("key", "notation"), [*product(LISTS, NOTATIONS)])
@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", [0, 1, False, True, None])
def test_a_turn_says_whether_it_is_learned(key, notation, flag, value):
    """OpenAI's fine-tuning guide: `weight`; axolotl, "Conversation": `train`."""
    role_key, content_key = notation
    turns = [{role_key: role, content_key: "a"} for role in ("user", "assistant") * 2]
    turns[1][flag] = value
    messages = to_messages({key: turns}, LISTS[key])
    assert messages[1] == {"role": "assistant", "content": "a"} | ({} if value in (1, None) else {"scored": False})
    assert messages[3] == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("value", [0.5, 2, -1, "0", "false", "", [], [0], {}])
@pytest.mark.parametrize("role", ["assistant", "user"])
def test_a_turn_that_says_neither_yes_nor_no_is_refused(flag, value, role):
    turns = [USER, ANSWER, USER, ANSWER]
    turns = [turn | ({flag: value} if turn["role"] == role else {}) for turn in turns]
    number = 1 if role == "user" else 2
    with pytest.raises(RecordError, match=f"turn {number} of 'messages': {flag}=.* is neither 0 nor 1"):
        parse_record(chat(*turns), "messages")


def test_a_conversation_of_which_nothing_is_learned_is_refused():
    silent = ANSWER | {"weight": 0}
    with pytest.raises(RecordError, match="every assistant turn has weight 0 or train false"):
        parse_record(chat(USER, silent, USER, silent), "messages")
    with pytest.raises(RecordError, match="weight=1 and train=False contradict each other"):
        parse_record(chat(USER, ANSWER | {"weight": 1, "train": False}), "messages")
    early = to_messages(chat(ANSWER, USER, silent), "messages")
    with pytest.raises(RecordError, match="every assistant turn after the first user turn has weight 0"):
        without_first_answers(early)


def test_prompts_are_not_learned_whatever_they_say():
    """axolotl would, with roles_to_train: []; here only answers are, so it is named."""
    parsed = parse_record(chat(USER | {"train": True}, ANSWER | {"train": True}), "messages")
    assert parsed.messages == [USER, ANSWER]
    assert parsed.unread == ("messages[].train",)
    assert parse_record(chat(USER | {"train": False}, ANSWER), "messages").unread == ()


@pytest.mark.parametrize(
    ("flags", "turn", "scored"),
    [
        ((None, None), None, True),
        ((True, None), None, True),
        ((False, False), None, False),
        ((False, None), False, False),
        ((True, True), False, True),
        ((True, False), None, None),
        ((None, False), True, None),
        ((True, None), False, None),
    ],
)
@pytest.mark.parametrize("field", ["content", "reasoning_content"])
def test_parts_of_an_answer_are_learned_as_a_whole_or_refused(flags, turn, scored, field):
    """axolotl, "Content parts with per-part training control": a part without a flag is as its turn."""
    parts = [{"type": "text", "text": text, "train": flag} for text, flag in zip("ab", flags, strict=True)]
    answer = {"role": "assistant", "content": "" if field == "content" else [parts[0]], field: parts, "train": turn}
    if scored is None:
        with pytest.raises(RecordError, match=r"turn 2 of 'messages': some parts .* have train=false and others not"):
            parse_record(chat(USER, answer, USER, ANSWER), "messages")
    else:
        message = to_messages(chat(USER, answer, USER, ANSWER), "messages")[1]
        assert (message[field], message.get("scored", True)) == ("ab", scored)


def test_spans_of_an_answer_are_refused():
    """axolotl, "Using fine-grained control over token masking": `train_detail`."""
    spans = [{"begin_offset": 0, "end_offset": 3, "train": False}]
    with pytest.raises(RecordError, match="turn 2 of 'messages': train_detail=.* leaves out parts .*set train to true"):
        parse_record(chat(USER, ANSWER | {"train_detail": spans}), "messages")
    assert to_messages(chat(USER, ANSWER | {"train_detail": None}), "messages") == [USER, ANSWER]


@pytest.mark.parametrize("prompt", ["How deep is the harbour?", [USER], [{"role": "system", "content": "s"}, USER]])
@pytest.mark.parametrize("completion", ["Nine metres.", [ANSWER], [ANSWER, USER, ANSWER]])
def test_the_completion_is_learned_and_the_prompt_is_not(prompt, completion):
    """TRL, "Dataset formats" and "Train on completion only"."""
    before = [USER] if isinstance(prompt, str) else prompt
    after = [ANSWER] if isinstance(completion, str) else completion
    assert to_messages({"prompt": prompt, "completion": completion}, "prompt_completion") == [*before, *after]


def test_answers_in_a_prompt_are_not_learned():
    record = {"prompt": [USER, ANSWER, USER], "completion": [ANSWER | {"weight": 1}]}
    assert to_messages(record, "prompt_completion") == [USER, ANSWER | {"scored": False}, USER, ANSWER]
    with pytest.raises(RecordError, match="field 'completion' has no assistant turn"):
        to_messages({"prompt": [USER, ANSWER], "completion": [USER]}, "prompt_completion")


@pytest.mark.parametrize("text", ["[1, 2] is a list", "[", '["role"]', "[]", '{"role": "user"}'])
def test_a_prompt_that_begins_like_json_is_a_text(text):
    assert to_messages({"prompt": text, "completion": text}, "prompt_completion") == [
        {"role": "user", "content": text},
        {"role": "assistant", "content": text},
    ]


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_parts_of_text_are_joined(kind, role):
    """OpenAI's API reference: content as an array of parts."""
    parts = [{"type": kind, "text": "a "}, {"type": kind, "text": "b", "image_url": None}]
    messages = to_messages(chat(USER, {"role": role, "content": parts}, USER, ANSWER), "messages")
    assert messages[1] == {"role": role, "content": "a b"}


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("value", ["hm", [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]])
def test_thoughts_of_a_message_are_kept(key, value):
    """axolotl: `reasoning_content`; TRL, "Harmony": `thinking`."""
    parsed = parse_record(chat(USER, ANSWER | {key: value}), "messages")
    assert parsed.messages == [USER, ANSWER | {"reasoning_content": "hm"}]
    assert parsed.unread == ()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": "hm"},
        {"type": "reasoning", "text": "hm"},
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
    ],
)
def test_thoughts_among_the_parts_of_a_message_are_kept(part):
    answer = {"role": "assistant", "content": [part, {"type": "text", "text": "Nine metres."}]}
    assert to_messages(chat(USER, answer), "messages") == [USER, ANSWER | {"reasoning_content": "hm"}]
    with pytest.raises(RecordError, match="turn 1 of 'messages': a thought in a message of role='user'"):
        to_messages(chat({"role": "user", "content": [part]}, ANSWER), "messages")


def test_the_same_thought_is_read_once_and_another_is_named():
    same = ANSWER | {"reasoning": "hm", "reasoning_content": "hm"}
    assert parse_record(chat(USER, same), "messages").unread == ()
    other = ANSWER | {"reasoning": "no", "reasoning_content": "hm"}
    assert parse_record(chat(USER, other), "messages").unread == ("messages[].reasoning",)
    assert parse_record(chat(USER | {"reasoning": "no"}, ANSWER), "messages").unread == ("messages[].reasoning",)


@pytest.mark.parametrize(
    "answer", [{"refusal": "I cannot."}, {"content": [{"type": "refusal", "refusal": "I cannot."}]}]
)
def test_a_refusal_is_an_answer(answer):
    """OpenAI's API reference: `refusal`, of a message or of a part."""
    said = to_messages(chat(USER, {"role": "assistant", **answer}), "messages")[1]
    assert said == {"role": "assistant", "content": "I cannot."}


@pytest.mark.parametrize("key", ["image", "images", "videos", "audios"])
@pytest.mark.parametrize("form", RECORDS)
def test_records_with_images_and_the_like_are_refused(key, form):
    with pytest.raises(RecordError, match=f"field '{key}' is .*a.png.*: only text is read; take such records out"):
        parse_record(RECORDS[form] | {key: ["a.png"]}, form)
    assert parse_record(RECORDS[form] | {key: []}, form).unread == ()


@pytest.mark.parametrize("form", RECORDS)
def test_answers_that_are_not_to_be_learned_are_refused(form):
    """LLaMA-Factory, data/README.md: `kto_tag`; TRL, "Unpaired preference": `label`."""
    for key in ("kto_tag", "label") if form == "prompt_completion" else ("kto_tag",):
        with pytest.raises(RecordError, match=f"{key} is false, so its answer is one not to learn: take such records"):
            parse_record(RECORDS[form] | {key: False}, form)
        assert to_messages(RECORDS[form] | {key: True}, form) == SAID[form]
    assert to_messages(RECORDS["messages"] | {"label": False}, "messages") == SAID["messages"]


SYSTEM = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("record", "form", "reason"),
    [
        (
            {"instruction": "a", "output": " \n"},
            "alpaca",
            r"an answer is empty \(message 2\): fill it, or give it weight",
        ),
        ({"instruction": "a", "output": 3}, "alpaca", "field 'output' is not a string but int"),
        ({"instruction": "a", "output": None}, "alpaca", "field 'output' is not a string but null"),
        (RECORDS["alpaca"] | {"history": [["a"]]}, "alpaca", r"pair 1 of 'history' is not a question and .*\['a'\]"),
        (RECORDS["alpaca"] | {"history": [["a", None]]}, "alpaca", "pair 1 of 'history' is not"),
        (RECORDS["alpaca"] | {"history": {"a": "b"}}, "alpaca", "field 'history' is not a list but {'a': 'b'}"),
        (
            RECORDS["alpaca"] | {"history": "what was said"},
            "alpaca",
            "'history' is a string that is not JSON: 'what was",
        ),
        (RECORDS["alpaca"] | {"tools": "a hammer"}, "alpaca", "field 'tools' is a string that is not JSON: 'a hammer'"),
        (
            RECORDS["alpaca"] | {"tools": [{"type": "web_search"}]},
            "alpaca",
            "function 1 of 'tools': type='web_search' is",
        ),
        (RECORDS["alpaca"] | {"tools": [{"type": "function"}]}, "alpaca", "function 1 of 'tools': name=None is not"),
        (RECORDS["alpaca"] | {"tools": [3]}, "alpaca", "function 1 of 'tools' is not an object but int"),
        (RECORDS["alpaca"] | {"tools": 3}, "alpaca", r"field 'tools' is not a list or an object but 3 \(int\)"),
        (RECORDS["alpaca"] | {"system": ["s"]}, "alpaca", "field 'system' is not a string but list"),
        ({"messages": "hello"}, "messages", "field 'messages' is a string that is not JSON: 'hello'"),
        ({"messages": []}, "messages", "field 'messages' is not a list of turns but empty"),
        ({"messages": {"role": "user"}}, "messages", "field 'messages' is not a list of turns but {'role': 'user'}"),
        ({"messages": [3]}, "messages", "turn 1 of 'messages' is not an object but int"),
        ({"prompt": 3, "completion": "a"}, "prompt_completion", "field 'prompt' is not a list or an object but 3"),
        ({"prompt": None, "completion": "a"}, "prompt_completion", "field 'prompt' is not a list of turns but empty"),
        (chat({"role": "user"}), "messages", "turn 1 of 'messages': no field 'content'"),
        (chat({"content": "a"}), "messages", "turn 1 of 'messages': no field 'role'"),
        (chat(USER, {"role": "assistant"}), "messages", "turn 2 of 'messages': no field 'content'"),
        (chat(USER, {"role": "assistant", "content": None}), "messages", "an answer is empty"),
        (chat({"role": "user", "content": None}, ANSWER), "messages", "field 'content' is not a string but null"),
        (chat({"role": "user", "content": []}, ANSWER), "messages", "field 'content' is not a string but empty"),
        (
            chat({"role": "narrator", "content": "x"}),
            "messages",
            "turn 1 of .* role='narrator' is no role; known are a",
        ),
        (chat(USER), "messages", "the conversation has no assistant turn"),
        (chat(USER, ANSWER, SYSTEM), "messages", "message 3 is a system message that nothing follows: move it"),
        (chat(USER | {"tool_calls": CALLS}, ANSWER), "messages", "tool_calls in a message of role='user': only an"),
        (
            chat(USER, {"role": "assistant", "tool_calls": [{"id": 1}]}),
            "messages",
            "call 1 of 'tool_calls' in turn 2 of",
        ),
        (
            chat(USER, {"role": "assistant", "tool_calls": [CALL | {"arguments": "{"}]}),
            "messages",
            r"call 1 of 'tool_calls' in turn 2 of 'messages': field 'arguments' is a string that is not JSON: '{'",
        ),
        (
            chat(USER, {"role": "assistant", "tool_calls": [CALL | {"arguments": [3]}]}),
            "messages",
            r"arguments=\[3\] are",
        ),
        (
            chat(USER, {"role": "assistant", "tool_calls": [{"name": "f"}]}),
            "messages",
            "'f' has no arguments: write {}",
        ),
        (
            chat(USER, {"role": "assistant", "tool_calls": [CALL], "function_call": CALL}),
            "messages",
            "both tool_calls and function_call",
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "depth()"}]},
            "sharegpt",
            r"turn 2 of 'conversations': field 'value' is a string that is not JSON: 'depth\(\)'",
        ),
        (
            chat({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER),
            "messages",
            "part 1 of 'content' in turn 1 of 'messages': type='image_url' is not read: only text is",
        ),
        (
            chat({"role": "user", "content": [{"type": "text"}]}, ANSWER),
            "messages",
            "part 1 of 'content' in turn 1 of 'messages': no field 'text'",
        ),
    ],
)
def test_a_record_that_cannot_be_used_says_why(record, form, reason):
    with pytest.raises(RecordError, match=reason):
        parse_record(record, form)


@pytest.mark.parametrize(
    "turns", [[SYSTEM, SYSTEM, USER, ANSWER], [USER, SYSTEM, ANSWER], [USER, ANSWER, SYSTEM, USER, ANSWER]]
)
def test_system_messages_stay_where_a_template_may_render_them(turns):
    assert without_first_answers(to_messages(chat(*turns), "messages")) == turns


def test_a_conversation_begins_with_its_first_question():
    assert without_first_answers([SYSTEM, ANSWER, USER, ANSWER]) == [SYSTEM, USER, ANSWER]
    assert without_first_answers([ANSWER, SYSTEM, USER, ANSWER]) == [SYSTEM, USER, ANSWER]
    assert without_first_answers([SYSTEM, USER, ANSWER]) == [SYSTEM, USER, ANSWER]
    with pytest.raises(RecordError, match="no assistant turn follows a user turn"):
        without_first_answers([SYSTEM, ANSWER, USER])


CHATML_OF_TOOLS = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def prepare_with_tools(prepare_sft, tmp_path, tokenizer_dir):
    """Prepares a file with a chat template that writes tools and calls; gives what is scored of each conversation."""
    (tmp_path / "own").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "own" / name).write_bytes((tokenizer_dir / name).read_bytes())
    (tmp_path / "own" / "chat_template.jinja").write_text(CHATML_OF_TOOLS)
    tokenizer = load_tokenizer(TokenizerConfig(name=str(tmp_path / "own")))

    def run(source: str, remote: str) -> list[tuple[str, list[str]]]:
        prepare_sft(f"source={source}", f"remote={remote}", "tokenizer.name=own", "pack=false", "max_length=1024")
        found = []
        for row in open_plain(local=str(tmp_path / remote / "train"), batch_size=1):
            spans = answer_spans(row["answer"])
            found.append((tokenizer.decode(row["tokens"]), [tokenizer.decode(row["tokens"][a:b]) for a, b in spans]))
        return found

    return run


CALLED = {"role": "assistant", "content": None, "tool_calls": CALLS}
WHOLE = {
    "messages": [USER, CALLED, {"role": "tool", "content": "9"}, ANSWER | {"weight": 0}, USER, ANSWER],
    "tools": TOOLS,
    "source": "a book",
}
SECOND = {
    "messages": [{"role": "developer", "content": "Be brief."}, USER, ANSWER | {"name": "Ann"}],
    "source": "a letter",
}


def test_a_job_reads_all_that_is_said_and_names_what_it_does_not_read(prepare_with_tools, tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (WHOLE, SECOND)))
    pq.write_table(pa.Table.from_pylist([WHOLE, SECOND]), tmp_path / "in.parquet")  # with the fields of all in each
    rows = prepare_with_tools("in.jsonl", "lines")
    first, second = sorted(rows, key=lambda row: "brief" in row[0])
    call = json.dumps(CALL)
    assert first[0].startswith(json.dumps(TOOLS[0]) + "\n<user>How deep is the harbour?</s><assistant>")
    assert first[1] == [call + "</s>", "Nine metres.</s>"]
    assert second[0].startswith("<system>Be brief.</s><user>")
    assert second[1] == ["Nine metres.</s>"]
    assert "\nnot read: source (2 records), messages[].name (1 record)\n" in capsys.readouterr().out
    assert prepare_with_tools("in.parquet", "columns") == rows


@pytest.mark.parametrize("later", [{"role": "tool", "content": "9"}, SYSTEM])
def test_the_default_template_refuses_roles_that_alpaca_s_prompt_has_no_place_for(tokenizer, later):
    template = ChatTemplate(tokenizer, "default", DEFAULT_TEMPLATE)
    with pytest.raises(RecordError, match=f"the chat template refuses it .no place for .* role {later['role']} in"):
        template.render(to_messages(chat(USER, ANSWER, later, ANSWER), "messages"))


texts = st.builds("<{}>".format, st.integers(0, 10**9))
anything = st.recursive(
    texts | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=4,
)
unknown = st.dictionaries(st.sampled_from(["source", "note", "title"]), anything, max_size=2)


def objects(required: dict, optional: dict | None = None) -> st.SearchStrategy:
    """Objects with fields that are known, some of which may be absent, and with fields that nobody knows."""
    return st.builds(
        lambda known, other: other | known, st.fixed_dictionaries(required, optional=optional or {}), unknown
    )


def maybe_json(values: st.SearchStrategy) -> st.SearchStrategy:
    return values | values.map(json.dumps)


parts = st.lists(objects({"type": st.sampled_from(["text", "input_text"]), "text": texts}), min_size=1, max_size=2)
thoughts = {key: texts | st.none() for key in ("reasoning_content", "reasoning", "thinking")}
functions = objects({"name": texts, "arguments": maybe_json(st.dictionaries(texts, anything, max_size=2))})
calls = st.lists(objects({"type": st.just("function"), "function": functions}, {"id": texts}) | functions, max_size=2)
schemas = objects({"name": texts, "parameters": maybe_json(st.just({"type": "object"}))}, {"description": texts})
tools = st.lists(schemas | objects({"type": st.just("function"), "function": schemas}), max_size=2)


def turns(role_key: str, content_key: str) -> st.SearchStrategy:
    content = texts | parts
    prompt = objects({role_key: st.sampled_from(["user", "human", "system"]), content_key: content}, {"name": texts})
    called = {"tool_calls": maybe_json(calls), "refusal": texts, **thoughts}
    answer = objects({role_key: st.sampled_from(["assistant", "gpt"]), content_key: content}, called)
    call = objects({role_key: st.just("function_call"), content_key: functions.map(json.dumps)})
    result = objects({role_key: st.just("tool"), content_key: content}, {"tool_call_id": texts, "name": texts})
    last = objects({role_key: st.just("assistant"), content_key: content})
    return st.builds(
        lambda before, after: [*before, after], st.lists(prompt | answer | call | result, max_size=3), last
    )


beside = {"system": texts, "tools": maybe_json(tools), "functions": maybe_json(tools)}
pairs = st.lists(st.tuples(texts, texts).map(list), max_size=2)
either = st.one_of(*(turns(*notation) for notation in NOTATIONS))
records = {
    "alpaca": objects(
        {"instruction": texts, "output": texts}, {**beside, "input": texts, "history": maybe_json(pairs)}
    ),
    "sharegpt": objects({"conversations": maybe_json(either)}, beside),
    "messages": objects({"messages": maybe_json(either)}, beside),
    "prompt_completion": objects(
        {"prompt": texts | maybe_json(either), "completion": texts | maybe_json(either)}, beside
    ),
}


def paths_of_texts(value: object, path: tuple[str, ...] = ("",)) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Texts of a value and the names of all fields that each is in, one within the other."""
    if isinstance(value, str):
        with suppress(ValueError):
            yield from paths_of_texts(json.loads(value), path)
            return
        yield value, path
    for key, each in value.items() if isinstance(value, dict) else ():
        name = path[-1] + key
        if each is not None:  # which is the same as absent
            yield key, (*path, name)
        for text, inner in paths_of_texts(each, (f"{name}.",)):
            yield text, (*path, name, *inner)
    for each in value if isinstance(value, list) else ():
        yield from paths_of_texts(each, (*path[:-1], path[-1].removesuffix(".") + "[]."))


@pytest.mark.parametrize("form", records)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_text_of_a_record_is_lost_unsaid(form, data):
    record = data.draw(records[form])
    before = json.dumps(record)
    parsed = parse_record(record, form)
    kept = json.dumps([parsed.messages, parsed.tools])
    for text, path in paths_of_texts(record):
        assert text[0] != "<" or text in kept or set(path) & set(parsed.unread), (text, path, parsed)
    assert json.dumps(record) == before, "the record is changed"
