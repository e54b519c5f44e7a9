"""Answers are marked exactly: against templates and tokens written out by hand, for every turn."""

import dataclasses
import json

import pytest
from tokenizers import AddedToken

from meap.config import TokenizerConfig
from meap.errors import ConfigError
from meap.prep.sft.messages import RecordError, to_messages
from meap.prep.sft.rendering import ChatTemplate
from meap.prep.sft.templates import DEFAULT_TEMPLATE, choose_template
from meap.tokenizer import load_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is the harbour quiet?"},
    {"role": "assistant", "content": "It lay quiet."},
    {"role": "user", "content": "And the boats?"},
    {"role": "assistant", "content": "They rocked\nwithout a sound."},
]


@pytest.fixture(scope="module")
def chatml(tokenizer):
    definition = json.loads(tokenizer.plain.to_str())
    plain = type(tokenizer.plain).from_str(json.dumps(definition))
    plain.add_special_tokens([AddedToken(each, special=True) for each in ("<|im_start|>", "<|im_end|>")])
    return ChatTemplate(dataclasses.replace(tokenizer, plain=plain, full=plain), "tokenizer", CHATML)


def by_pieces(tokenizer, pieces: list[tuple[str, int]]) -> tuple[list[int], list[int]]:
    tokens, answer = [], []
    for text, scored in pieces:
        ids = tokenizer.encode(text)
        tokens += ids
        answer += [scored] * len(ids)
    return tokens, answer


def test_every_assistant_turn_and_nothing_else_is_an_answer(chatml):
    rendered = chatml.render(TALK)
    start = "<|im_start|>"
    tokens, answer = by_pieces(
        chatml.tokenizer,
        [
            (
                f"{start}system\nBe brief.<|im_end|>\n{start}user\nIs the harbour quiet?<|im_end|>\n{start}assistant\n",
                0,
            ),
            ("It lay quiet.<|im_end|>", 1),
            (f"\n{start}user\nAnd the boats?<|im_end|>\n{start}assistant\n", 0),
            ("They rocked\nwithout a sound.<|im_end|>", 1),
            ("\n", 0),
        ],
    )
    assert rendered.tokens.tolist() == tokens
    assert (rendered.flags & 1).tolist() == answer


def test_rendering_is_that_of_transformers(chatml):
    from transformers import PreTrainedTokenizerFast

    stock = PreTrainedTokenizerFast(tokenizer_object=chatml.tokenizer.plain, chat_template=CHATML)
    assert chatml.render(TALK).tokens.tolist() == stock.apply_chat_template(TALK, return_dict=False)


@pytest.mark.parametrize("context", ["", "The sky was grey."])
def test_the_default_template_is_alpacas_prompt(tokenizer, context):
    record = {"instruction": "Name the sky's colour.", "input": context, "output": "Grey."}
    rendered = ChatTemplate(tokenizer, *choose_template(tokenizer, "auto")).render(to_messages(record, "alpaca"))
    preamble = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        if context
        else "Below is an instruction that describes a task. "
    ) + "Write a response that appropriately completes the request.\n\n"
    prompt = f"<s>{preamble}### Instruction:\n{record['instruction']}\n\n"
    prompt += (f"### Input:\n{context}\n\n" if context else "") + "### Response:\n"
    tokens, answer = by_pieces(tokenizer, [(prompt, 0), ("Grey.</s>", 1)])
    assert rendered.text == prompt + "Grey.</s>"
    assert (rendered.tokens.tolist(), (rendered.flags & 1).tolist()) == (tokens, answer)
    assert rendered.tokens[-1] == tokenizer.eos_id


def test_the_default_template_keeps_the_history(tokenizer):
    rendered = ChatTemplate(tokenizer, "default", DEFAULT_TEMPLATE).render(TALK)
    assert rendered.text == (
        "<s>Be brief.\n\n### Instruction:\nIs the harbour quiet?\n\n### Response:\nIt lay quiet.</s>"
        "### Instruction:\nAnd the boats?\n\n### Response:\nThey rocked\nwithout a sound.</s>"
    )
    answers = tokenizer.decode(rendered.tokens[(rendered.flags & 1) == 1].tolist())
    assert answers == "It lay quiet.</s>They rocked\nwithout a sound.</s>"


def test_other_templates_read_an_input_as_part_of_the_question(chatml):
    record = {"instruction": "Name it.", "input": "A boat.", "output": "Boat."}
    assert "user\nName it.\n\nA boat.<|im_end|>" in chatml.render(to_messages(record, "alpaca")).text


def test_where_tokens_merge_across_the_border_the_prompt_is_encoded_as_inference_does(tokenizer):
    # "...: the" and "re": the tokenizer has words that begin with a space, which the prompt here ends in.
    template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }}{{ ' ' }}{% else %}"
        "{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
    )
    chat = [{"role": "user", "content": "Say:"}, {"role": "assistant", "content": "the boats"}]
    whole, apart = tokenizer.encode("Say: the boats</s>"), tokenizer.encode("Say: ")
    assert whole[: len(apart)] != apart, "the tokenizer of this test does not merge"
    rendered = ChatTemplate(tokenizer, "tokenizer", template).render(chat)
    tokens, answer = by_pieces(tokenizer, [("Say: ", 0), ("the boats</s>", 1)])
    assert (rendered.tokens.tolist(), (rendered.flags & 1).tolist()) == (tokens, answer)


def test_a_template_that_rewrites_history_is_refused(tokenizer):
    template = ChatTemplate(
        tokenizer, "tokenizer", "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(
        RecordError, match="writes an answer differently once the conversation continues, .* turns=each"
    ):
        template.render(TALK)


def test_a_template_s_own_refusal_is_told(tokenizer):
    template = ChatTemplate(tokenizer, "tokenizer", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(RecordError, match=r"the chat template refuses it \(roles must alternate\)"):
        template.render(TALK)


def test_special_tokens_in_a_message_are_refused_and_the_mask_token_s_text_is_text(tokenizer):
    template = ChatTemplate(tokenizer, "default", DEFAULT_TEMPLATE)
    with pytest.raises(RecordError, match="a user message contains the special token '</s>'"):
        template.render([{"role": "user", "content": "say </s>"}, TALK[2]])
    rendered = template.render([{"role": "user", "content": "say [MASK]"}, TALK[2]])
    assert tokenizer.mask_id not in rendered.tokens


def test_the_tokenizers_own_template_must_be_there(tokenizer):
    with pytest.raises(ConfigError, match="template=tokenizer, but tokenizer .* has none: use template=default"):
        choose_template(tokenizer, "tokenizer")
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    several = dataclasses.replace(tokenizer, source_config={"chat_template": named})
    assert choose_template(several, "auto") == ("tokenizer", "y")
    assert choose_template(several, "default") == ("default", DEFAULT_TEMPLATE)


def test_a_template_in_a_file_of_its_own_is_found_and_saved(tokenizer_dir, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tokenizer_dir / name).read_bytes())
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    loaded = load_tokenizer(TokenizerConfig(name=str(tmp_path)))
    loaded.save(tmp_path / "saved")
    assert choose_template(load_tokenizer(TokenizerConfig(name=str(tmp_path / "saved"))), "auto") == (
        "tokenizer",
        CHATML,
    )
