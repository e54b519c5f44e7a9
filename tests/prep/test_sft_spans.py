"""What is scored: shapes of the templates that people tune, written anew, and tables of answers made by hand."""

import dataclasses
import json

import numpy as np
import pytest
from tokenizers import AddedToken

from meap.answers import END, LONG, SCORED, answer_spans, long_answers, with_long_answers
from meap.prep.sft.messages import RecordError, parse_record
from meap.prep.sft.rendering import ChatTemplate
from meap.prep.sft.steps import views_of
from meap.prep.sft.templates import DEFAULT_TEMPLATE

ADDED = ("<|im_start|>", "<|im_end|>", "<|start|>", "<|stop|>", "<|eot|>", "<|user|>", "<|bot|>", "[INST]", "[/INST]")
PLAIN_ADDED = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Qwen's and R1's vocabularies have these as tokens that are not special."""

LLAMA3 = (
    "{{- bos_token }}{%- for m in messages %}"
    "{{- '<|start|>' + m.role + '<|stop|>\n\n' + m.content | trim + '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant<|stop|>\n\n' }}{%- endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN25 = (
    "{%- if tools %}{{- '<|im_start|>system\n# Tools\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- for m in messages %}{%- if m.role == 'assistant' and m.tool_calls %}"
    "{{- '<|im_start|>assistant' }}{%- if m.content %}{{- '\n' + m.content }}{%- endif %}"
    "{%- for call in m.tool_calls %}{{- '\n<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- elif m.role == 'tool' %}"
    "{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
QWEN3 = (
    "{%- set ns = namespace(query=0) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set ns.query = loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{%- set thought = m.reasoning_content or '' %}{%- set said = m.content %}"
    "{%- if not thought and '</think>' in said %}"
    "{%- set thought = said.split('</think>')[0].split('<think>')[-1] %}{%- set said = said.split('</think>')[-1] %}"
    "{%- endif %}{{- '<|im_start|>assistant\n' }}{%- if loop.index0 > ns.query %}"
    "{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{%- endif %}{{- said.lstrip('\n') + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
MISTRAL = (
    "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'user' %}{{- '[INST] ' + m.content + ' [/INST]' }}"
    "{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}{%- endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<|start|>' + role + '\n' + m.content | trim + '<|stop|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>model\n' }}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}{% else %}"
    "{{ '<|bot|>' + m.content.split('</think>')[-1].lstrip('\n') + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|bot|><think>\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}\n{{ '<|' + m.role + '|>\n' + m.content + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
PHI = (
    "{% for m in messages %}{{ ('<|bot|>' if m.role == 'assistant' else '<|user|>') + '\n' + m.content + '<|eot|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|bot|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}"
)
NO_PROMPT = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
NO_END = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

TALK = [
    {"role": "user", "content": "Is the harbour quiet?"},
    {"role": "assistant", "content": "It lay quiet."},
    {"role": "user", "content": "And the boats?"},
    {"role": "assistant", "content": "They rocked."},
]
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
Q1, A1, Q2, A2 = (message["content"] for message in TALK)

TABLE = {
    "llama3": (
        LLAMA3,
        f"<s><|start|>user<|stop|>\n\n{Q1}<|eot|><|start|>assistant<|stop|>\n\n",
        f"{A1}<|eot|>",
        f"<|start|>user<|stop|>\n\n{Q2}<|eot|><|start|>assistant<|stop|>\n\n",
        f"{A2}<|eot|>",
        "",
    ),
    "chatml": (
        CHATML,
        f"<|im_start|>user\n{Q1}<|im_end|>\n<|im_start|>assistant\n",
        f"{A1}<|im_end|>",
        f"\n<|im_start|>user\n{Q2}<|im_end|>\n<|im_start|>assistant\n",
        f"{A2}<|im_end|>",
        "\n",
    ),
    "mistral": (MISTRAL, f"<s>[INST] {Q1} [/INST]", f" {A1}</s>", f"[INST] {Q2} [/INST]", f" {A2}</s>", ""),
    "gemma": (
        GEMMA,
        f"<s><|start|>user\n{Q1}<|stop|>\n<|start|>model\n",
        f"{A1}<|stop|>",
        f"\n<|start|>user\n{Q2}<|stop|>\n<|start|>model\n",
        f"{A2}<|stop|>",
        "\n",
    ),
    "r1": (R1, f"<s><|user|>{Q1}<|bot|>", f"{A1}</s>", f"<|user|>{Q2}<|bot|>", f"{A2}</s>", ""),
    "alpaca": (
        DEFAULT_TEMPLATE,
        f"<s>{ALPACA}### Instruction:\n{Q1}\n\n### Response:\n",
        f"{A1}</s>",
        f"### Instruction:\n{Q2}\n\n### Response:\n",
        f"{A2}</s>",
        "",
    ),
    "zephyr": (
        ZEPHYR,
        f"<|user|>\n{Q1}</s>\n<|assistant|>\n",
        f"{A1}</s>",
        f"\n<|user|>\n{Q2}</s>\n<|assistant|>\n",
        f"{A2}</s>",
        "\n",
    ),
    "phi": (
        PHI,
        f"<|user|>\n{Q1}<|eot|>\n<|bot|>\n",
        f"{A1}<|eot|>",
        f"\n<|user|>\n{Q2}<|eot|>\n<|bot|>\n",
        f"{A2}<|eot|>",
        "\n</s>",
    ),
    "marked": (
        MARKED,
        f"<|im_start|>user\n{Q1}<|im_end|>\n<|im_start|>assistant\n",
        f"{A1}<|im_end|>\n",
        f"<|im_start|>user\n{Q2}<|im_end|>\n<|im_start|>assistant\n",
        f"{A2}<|im_end|>\n",
        "",
    ),
    "header without a prompt": (
        NO_PROMPT,
        f"<|im_start|>user\n{Q1}<|im_end|>\n<|im_start|>assistant\n",
        f"{A1}<|im_end|>",
        f"\n<|im_start|>user\n{Q2}<|im_end|>\n<|im_start|>assistant\n",
        f"{A2}<|im_end|>",
        "\n",
    ),
    "vicuna": (VICUNA, f"USER: {Q1} ASSISTANT:", f" {A1}</s>", f"USER: {Q2} ASSISTANT:", f" {A2}</s>", ""),
}
TABLE["qwen2.5"] = (QWEN25, *TABLE["chatml"][1:])
ENDS = {"llama3": "<|eot|>", "gemma": "<|stop|>", "phi": "<|eot|>"} | dict.fromkeys(
    ("chatml", "qwen2.5", "marked", "header without a prompt"), "<|im_end|>"
)


@pytest.fixture(scope="module")
def chat_tokenizer(tokenizer):
    plain = type(tokenizer.plain).from_str(tokenizer.plain.to_str())
    plain.add_special_tokens([AddedToken(each, special=True) for each in ADDED])
    plain.add_tokens([AddedToken(each, special=False) for each in PLAIN_ADDED])
    return dataclasses.replace(tokenizer, plain=plain, full=plain)


def scored_texts(tokenizer, rendered) -> list[str]:
    """The scored runs of tokens, decoded."""
    runs, before = [], False
    for token, flag in zip(rendered.tokens.tolist(), rendered.flags.tolist(), strict=True):
        if flag & SCORED:
            runs += [] if before else [[]]
            runs[-1].append(token)
        before = bool(flag & SCORED)
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("name", TABLE)
def test_scored_spans_are_those_of_a_table_made_by_hand(chat_tokenizer, name):
    template, *pieces = TABLE[name]
    rendered = ChatTemplate(chat_tokenizer, "default" if name == "alpaca" else "tokenizer", template).render(TALK)
    tokens, flags = [], []
    for number, piece in enumerate(pieces):
        ids = chat_tokenizer.encode(piece)
        tokens += ids
        flags += [number % 2] * len(ids)
    assert rendered.text == "".join(pieces)
    assert rendered.tokens.tolist() == tokens
    assert (rendered.flags & SCORED).tolist() == flags
    end = chat_tokenizer.encode(ENDS.get(name, "</s>"))[0]
    assert rendered.ends == (end, end)
    ending = [token for token, flag in zip(tokens, rendered.flags.tolist(), strict=True) if flag & END]
    assert [token for token in ending if chat_tokenizer.decode([token]).strip()] == [end, end]
    assert rendered.is_prompted == (name != "r1")


@pytest.mark.parametrize("name", TABLE)
def test_turns_that_are_not_to_be_scored_are_read_and_not_scored(chat_tokenizer, name):
    template = ChatTemplate(chat_tokenizer, "default" if name == "alpaca" else "tokenizer", TABLE[name][0])
    talk = [TALK[0], {**TALK[1], "scored": False}, *TALK[2:]]
    whole, some = template.render(TALK), template.render(talk)
    assert some.tokens.tolist() == whole.tokens.tolist()
    assert scored_texts(chat_tokenizer, some) == scored_texts(chat_tokenizer, whole)[1:]


@pytest.mark.parametrize("turns", ["all", "last", "each"])
def test_a_template_that_drops_earlier_thoughts_is_tuned_answer_by_answer(chat_tokenizer, turns):
    template = ChatTemplate(chat_tokenizer, "tokenizer", QWEN3)
    thoughtful = [TALK[0], {**TALK[1], "reasoning_content": "No wind."}, TALK[2], {**TALK[3], "content": A2}]
    views = views_of(thoughtful, turns)
    if turns == "all":
        with pytest.raises(RecordError, match="writes an answer differently .* turns=each makes each answer the last"):
            template.render(views[0])
        return
    expected = [f"<think>\nNo wind.\n</think>\n\n{A1}<|im_end|>", f"<think>\n\n</think>\n\n{A2}<|im_end|>"]
    rendered = [template.render(view) for view in views]
    assert [scored_texts(chat_tokenizer, each) for each in rendered] == [
        [each] for each in (expected if turns == "each" else expected[1:])
    ]
    assert "No wind" not in rendered[-1].text


def test_thoughts_that_the_prompt_opens_are_written_as_the_model_writes_them(chat_tokenizer):
    template = ChatTemplate(chat_tokenizer, "tokenizer", R1)
    for answer in (
        {"role": "assistant", "content": A1, "reasoning_content": "No wind."},
        {"role": "assistant", "content": f"<think>No wind.</think>\n\n{A1}"},
    ):
        rendered = template.render([TALK[0], answer])
        assert rendered.text == f"<s><|user|>{Q1}<|bot|><think>\nNo wind.\n</think>\n\n{A1}</s>"
        assert scored_texts(chat_tokenizer, rendered) == [f"No wind.\n</think>\n\n{A1}</s>"]
        assert rendered.is_prompted
    with pytest.raises(
        RecordError, match=r"leaves out a part of .*'assistant' .*turns=each if it is the thought of an"
    ):
        template.render([TALK[0], answer, *TALK[2:]])


def test_tool_calls_are_answers_and_results_are_not(chat_tokenizer):
    tool = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {}}}}
    call = {"type": "function", "function": {"name": "tide", "arguments": {"port": "north"}}}
    talk = [
        TALK[0],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "low"},
        TALK[1],
    ]
    rendered = ChatTemplate(chat_tokenizer, "tokenizer", QWEN25).render(talk, [tool])
    first, second = scored_texts(chat_tokenizer, rendered)
    assert second == f"{A1}<|im_end|>"
    assert first.endswith("</tool_call><|im_end|>")
    assert '"port": "north"' in first
    assert rendered.text.startswith("<|im_start|>system\n# Tools\n{")
    with pytest.raises(RecordError, match="'north'|'tide'|leaves out a part of a message"):
        ChatTemplate(chat_tokenizer, "tokenizer", CHATML).render(talk, [tool])
    with pytest.raises(RecordError, match="leaves out the tool 'tide'"):
        ChatTemplate(chat_tokenizer, "tokenizer", CHATML).render(TALK, [tool])


def test_what_a_template_leaves_out_is_no_record(chat_tokenizer):
    dropping = "{% for m in messages if m.role != 'system' %}" + CHATML.partition("{% for m in messages %}")[2]
    talk = [{"role": "system", "content": "Be brief."}, *TALK]
    with pytest.raises(RecordError, match=r"leaves out a part of a message of role 'system' \('Be brief.'\)"):
        ChatTemplate(chat_tokenizer, "tokenizer", dropping).render(talk)


def test_an_answer_that_nothing_ends_is_known_as_that(chat_tokenizer):
    rendered = ChatTemplate(chat_tokenizer, "tokenizer", NO_END).render(TALK)
    assert rendered.ends == (None, None)
    assert scored_texts(chat_tokenizer, rendered) == [f"{A1}\n", f"{A2}\n"]
    assert not (rendered.flags & END).any()


def test_marks_that_miss_an_answer_are_refused(chat_tokenizer):
    halfway = MARKED.replace("m.role == 'assistant' %}{% gen", "m.role == 'assistant' and loop.last %}{% gen")
    with pytest.raises(RecordError, match=r"marks 1 of 2 answers with \{% generation %\}"):
        ChatTemplate(chat_tokenizer, "tokenizer", halfway).render(TALK)


def test_threshold_and_copy_are_those_of_each_answer():
    words, end = SCORED, SCORED | END
    # An answer of three words, one of two right behind it, one of four cut before its end.
    flags = np.array([0, words, words, words, end, words, words, end, 0, words, words, words, words], np.uint8)
    assert answer_spans(flags) == [(1, 5), (5, 8), (9, 13)]
    assert long_answers(with_long_answers(flags, 2)) == [(1, 5), (9, 13)]
    assert long_answers(with_long_answers(flags, 3)) == [(9, 13)]
    assert long_answers(with_long_answers(flags, 4)) == []
    long = with_long_answers(flags, 2)
    assert np.flatnonzero(long & LONG).tolist() == [1, 2, 3, 9, 10, 11, 12]
    assert long_answers(long, 3) == [(9, 13)]
    assert (long & (SCORED | END)).tolist() == flags.tolist()
    # Nothing predicts the first token: it is no word.
    assert long_answers(with_long_answers(flags[1:], 2)) == [(8, 12)]


ODD = (
    "end",
    "m",
    ">",
    "<|im_end",
    "im_end|>",
    "s",
    "assistant",
    "``` x",
    " \n led",
    "I say.\n\n",
    "I </think>",
    "Why?",
)
"""Contents that are parts of headers and ends, that begin in white space, or end in a token that is a word."""


@pytest.mark.parametrize("content", ODD)
@pytest.mark.parametrize("name", TABLE)
def test_odd_contents_are_located_as_any_other(chat_tokenizer, name, content):
    template = ChatTemplate(chat_tokenizer, "default" if name == "alpaca" else "tokenizer", TABLE[name][0])
    talk = [{"role": "user", "content": content}, {"role": "assistant", "content": content}, *TALK[2:]]
    views = views_of(talk, "each" if name == "r1" else "all")
    end = ENDS.get(name, "</s>")
    for view in views:
        rendered = template.render(view)
        scored = "".join(scored_texts(chat_tokenizer, rendered)).split(end)
        said = [each["content"] for each in view if each["role"] == "assistant" and each.get("scored", True)]
        expected = [each.rpartition("</think>")[0] or each for each in said]
        assert all(each.strip() in text for each, text in zip(expected, scored, strict=False))
        assert len(scored) == len(said) + 1
        assert scored[-1].strip() == ""
        assert scored[-1] == "" or name == "marked"
        assert rendered.ends == (chat_tokenizer.encode(end)[0],) * len(said)
        ending = rendered.tokens[(rendered.flags & END) != 0].tolist()
        assert [token for token in ending if chat_tokenizer.decode([token]).strip()] == list(rendered.ends)


def _prepending(chat_tokenizer):
    """Llama-2's way: a space before each text that stands between added tokens."""
    definition = json.loads(chat_tokenizer.plain.to_str())
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
    letters = sorted({*"▁\n", *map(chr, range(33, 127))})
    words = [*letters, "▁I", "▁It"]
    added = [each | {"id": len(words) + n} for n, each in enumerate(definition["added_tokens"])]
    vocab = {word: number for number, word in enumerate(words)}
    model = {"type": "BPE", "vocab": vocab, "merges": [["▁", "I"], ["▁I", "t"]]}
    definition |= {"pre_tokenizer": spaces, "decoder": spaces, "post_processor": None, "normalizer": None}
    definition |= {"added_tokens": added, "model": {**definition["model"], **model}}
    plain = type(chat_tokenizer.plain).from_str(json.dumps(definition))
    return dataclasses.replace(chat_tokenizer, plain=plain, full=plain)


def test_a_prompt_that_ends_in_a_space_is_encoded_as_inference_does_by_sentencepiece_too(chat_tokenizer):
    prepending = _prepending(chat_tokenizer)
    template = VICUNA + "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
    rendered = ChatTemplate(prepending, "tokenizer", template).render(TALK[:2])
    prompt = prepending.encode(f"USER: {Q1} ASSISTANT: ")
    assert rendered.tokens[: len(prompt)].tolist() == prompt
    assert [prepending.full.id_to_token(token) for token in rendered.tokens[len(prompt) :]] == [
        *A1.replace(" ", "▁"),
        "</s>",
    ]
    assert (rendered.flags & SCORED).tolist() == [0] * len(prompt) + [1] * (len(A1) + 1)


TAKING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|taking|>\n' }}{% generation %}"
    "{{ m.content + '<|said|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|asked|>\n' + m.content + '<|said|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|taking|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""Phi-3's shape, whose tokens take the white space behind them."""


@pytest.mark.parametrize("answer", [A1, f" \n {A1}", f"{A1} \n"])
@pytest.mark.parametrize("with_marks", [True, False])
@pytest.mark.parametrize("sides", [("rstrip",), ("lstrip",), ("rstrip", "lstrip")])
def test_tokens_that_take_white_space_are_one_with_it(chat_tokenizer, sides, with_marks, answer):
    plain = type(chat_tokenizer.plain).from_str(chat_tokenizer.plain.to_str())
    tokens = ("<|taking|>", "<|said|>", "<|asked|>")
    options = dict.fromkeys(sides, True)
    plain.add_special_tokens([AddedToken(each, special=True, normalized=False, **options) for each in tokens])
    taking = dataclasses.replace(chat_tokenizer, plain=plain, full=plain)
    template = TAKING if with_marks else TAKING.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    talk = [TALK[0], {**TALK[1], "content": answer}, *TALK[2:]]
    rendered = ChatTemplate(taking, "tokenizer", template).render(talk)
    if answer == A1 or "rstrip" in sides:
        assert rendered.tokens.tolist() == taking.encode(rendered.text)
    scored = scored_texts(taking, rendered)
    assert [each.strip().replace(" \n", "") for each in scored] == [f"{A1}<|said|>", f"{A2}<|said|>"]
    assert rendered.ends == (taking.encode("<|said|>")[0],) * 2
    first = int(np.flatnonzero(rendered.flags & SCORED)[0])
    assert rendered.tokens[:first].tolist() == taking.encode(f"<|asked|>\n{Q1}<|said|>\n<|taking|>\n")


def test_marks_hold_neither_prompts_nor_ends_that_are_none(chat_tokenizer):
    with_header = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ '<|im_start|>assistant\n' + m.content + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    rendered = ChatTemplate(chat_tokenizer, "tokenizer", with_header).render(TALK)
    assert scored_texts(chat_tokenizer, rendered) == [f"{A1}<|im_end|>", f"{A2}<|im_end|>"]
    without_end = with_header.replace(" + '<|im_end|>' }}{% endgen", " }}{% endgen")
    answer = {"role": "assistant", "content": "<think>No wind.</think>"}
    rendered = ChatTemplate(chat_tokenizer, "tokenizer", without_end).render([TALK[0], answer])
    assert rendered.ends == (None,)
    assert not (rendered.flags & END).any()


CALL = {"id": "abcdef123", "type": "function", "function": {"name": "tide", "arguments": {"port": "Å\n"}}}
CALLING = [
    TALK[0],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "low"},
    TALK[1],
]
DEEPSEEK = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content + '<|bot|>' }}"
    "{% elif m.role == 'tool' %}{{ '<|start|>' + m.content + '<|stop|>' }}{% elif m.content is none %}"
    "{% for c in m.tool_calls %}{{ c.function.name + '\n' + c.function.arguments }}{% endfor %}{{ eos_token }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL3 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}{% elif m.tool_calls %}"
    "{{ '<tool_call>' + (m.tool_calls[0].function | tojson) + eos_token }}"
    "{% elif m.role == 'tool' %}{{ '<|start|>' + m.content + '<|stop|>' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "call", "answer"),
    [
        (DEEPSEEK, 'tide\n{"port": "Å\\n"}</s>', f"{A1}</s>"),
        (MISTRAL3, '<tool_call>{"name": "tide", "arguments": {"port": "Å\\n"}}</s>', f" {A1}</s>"),
    ],
    ids=["DeepSeek's null and text", "Mistral's space before text alone"],
)
@pytest.mark.parametrize("turns", ["all", "each"])
def test_calls_are_written_as_the_template_reads_them(chat_tokenizer, template, call, answer, turns):
    rendered = [ChatTemplate(chat_tokenizer, "tokenizer", template).render(each) for each in views_of(CALLING, turns)]
    assert [text for each in rendered for text in scored_texts(chat_tokenizer, each)] == [call, answer]


def test_thoughts_are_written_under_both_names_that_transformers_gives_them(chat_tokenizer):
    harmony = (
        "{% for m in messages %}{% if m.thinking %}{{ '<|start|>thought<|stop|>' + m.thinking + '<|eot|>' }}{% endif %}"
        "{{ '<|start|>' + m.role + '<|stop|>' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>' }}{% endif %}"
    )
    rendered = ChatTemplate(chat_tokenizer, "tokenizer", harmony).render(
        [TALK[0], {**TALK[1], "reasoning_content": "No wind."}]
    )
    assert scored_texts(chat_tokenizer, rendered) == [
        f"thought<|stop|>No wind.<|eot|><|start|>assistant<|stop|>{A1}<|im_end|>"
    ]


def test_thought_tags_are_an_answer_s_own_be_they_special_or_not(chat_tokenizer):
    plain = type(chat_tokenizer.plain).from_str(chat_tokenizer.plain.to_str())
    plain.add_special_tokens([AddedToken(each, special=True) for each in ("<think>", "</think>")])
    template = ChatTemplate(dataclasses.replace(chat_tokenizer, plain=plain, full=plain), "tokenizer", R1)
    for content in (f"<think>No wind.</think>{A1}", f"No wind.\n</think>\n\n{A1}"):
        rendered = template.render([TALK[0], {"role": "assistant", "content": content}])
        assert scored_texts(chat_tokenizer, rendered) == [f"No wind.\n</think>\n\n{A1}</s>"]
        assert rendered.is_prompted
    with pytest.raises(RecordError, match="a user message contains the special token '<think>'"):
        template.render([{"role": "user", "content": "<think>"}, TALK[1]])


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ({"reasoning_content": "No wind."}, "or write the thought into the content, between <think> and </think>$"),
        ({"tool_calls": [CALL]}, "or leave such records out$"),
    ],
)
def test_the_remedy_is_one_that_helps(chat_tokenizer, answer, remedy):
    with pytest.raises(RecordError, match=f"leaves out a part of .*choose one that writes it, {remedy}"):
        ChatTemplate(chat_tokenizer, "tokenizer", CHATML).render([TALK[0], {**TALK[1], **answer}])


def test_a_system_message_that_only_the_prompt_has_is_another_prompt(chat_tokenizer):
    only_last = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + ('\n\n' if loop.last else '') + m.content }}"
        "{{ '[/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    )
    rendered = ChatTemplate(chat_tokenizer, "tokenizer", only_last).render(TALK[:2])
    assert not rendered.is_prompted


@pytest.mark.parametrize("half", ["\\ud83d", "a\\udc00", "\\ude00\\ud83d"])
def test_half_a_character_is_no_record(half):
    turns = f'[{{"role": "user", "content": "{half}"}}, {{"role": "assistant", "content": "\\ud83d\\ude00"}}]'
    with pytest.raises(RecordError, match=r"field 'messages' has half a character, '\\ud.*': repair it"):
        parse_record({"messages": turns}, "messages")
    whole = parse_record({"messages": turns.replace(half, "\\\\ud83d \\ud83d\\ude00", 1)}, "messages")
    assert [each["content"] for each in whole.messages] == ["\\ud83d \U0001f600", "\U0001f600"]
