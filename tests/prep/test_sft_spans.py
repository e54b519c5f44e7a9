"""What is scored: shapes of the templates that people tune, written anew, and tables of answers made by hand."""

import dataclasses

import numpy as np
import pytest
from tokenizers import AddedToken

from meap.answers import END, LONG, SCORED, answer_spans, long_answers, with_long_answers
from meap.prep.sft.messages import RecordError
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
