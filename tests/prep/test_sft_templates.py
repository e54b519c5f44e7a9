"""Chat templates of the models that people tune: marks are the answers, ids those of `apply_chat_template`."""

import dataclasses
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken

from meap.config import SftPrepConfig, TokenizerConfig
from meap.errors import ConfigError
from meap.prep.sft import templates
from meap.prep.sft.messages import RecordError
from meap.prep.sft.rendering import ChatTemplate, Rendered
from meap.prep.sft.source import load_chat_tokenizer
from meap.prep.sft.templates import check_template
from meap.tokenizer import load_tokenizer

LLAMA3 = (
    "{% for m in messages %}{% set text = '<|start|>' + m['role'] + '<|end|>\n\n' + m['content'] | trim + '<|eot|>' %}"
    "{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
QWEN = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|start|>system\n' + messages[0]['content'] + '<|eot|>\n' }}"
    "{%- else %}{{- '<|start|>system\nYou are a helpful assistant.<|eot|>\n' }}{%- endif %}"
    "{%- for m in messages %}{%- if m.role != 'system' %}"
    "{{- '<|start|>' + m.role + '\n' + m.content + '<|eot|>' + '\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant\n' }}{%- endif %}"
)
ZEPHYR = (
    "{% for m in messages %}\n{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
DATED = (
    "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    "{% for m in messages %}{{ m.content }}<|eot|>{% endfor %}"
)
TALK = [
    {"role": "user", "content": "Is the harbour quiet? "},
    {"role": "assistant", "content": " It lay quiet.\n"},
    {"role": "user", "content": "And the boats?"},
    {"role": "assistant", "content": "They rocked \N{SAILBOAT}\x00 without a sound."},
]
LLAMA2 = Path(__file__).parents[3] / "shared" / "data" / "tokenizers" / "llama2"


def with_special_tokens(tokenizer):
    plain = type(tokenizer.plain).from_str(tokenizer.plain.to_str())
    plain.add_special_tokens([AddedToken(each, special=True) for each in ("<|start|>", "<|end|>", "<|eot|>")])
    return dataclasses.replace(tokenizer, plain=plain, full=plain)


@pytest.fixture(scope="module", params=["byte-level", "llama2"])
def model(request, tokenizer):
    if request.param == "byte-level":
        return with_special_tokens(tokenizer)
    if not LLAMA2.is_dir():
        pytest.skip("the Llama-2 tokenizer is not here: ../shared/data is not part of the project")
    return with_special_tokens(load_tokenizer(TokenizerConfig(name=str(LLAMA2))))


@pytest.mark.parametrize(
    ("template", "answers"),
    [
        (LLAMA3, ["It lay quiet.<|eot|>", "They rocked \N{SAILBOAT}\x00 without a sound.<|eot|>"]),
        (MISTRAL, ["  It lay quiet.\n</s>", " They rocked \N{SAILBOAT}\x00 without a sound.</s>"]),
        (QWEN, [" It lay quiet.\n<|eot|>", "They rocked \N{SAILBOAT}\x00 without a sound.<|eot|>"]),
        (ZEPHYR, [" It lay quiet.\n</s>", "They rocked \N{SAILBOAT}\x00 without a sound.</s>"]),
    ],
    ids=["llama3", "mistral", "qwen", "zephyr"],
)
def test_marked_tokens_are_the_answers_and_ids_those_of_transformers(model, template, answers):
    from transformers import PreTrainedTokenizerFast

    stock = PreTrainedTokenizerFast(
        tokenizer_object=model.plain, chat_template=template, bos_token=model.bos_token, eos_token=model.eos_token
    )
    rendered = ChatTemplate(model, "tokenizer", template).render(TALK)
    assert rendered.tokens.tolist() == stock.apply_chat_template(TALK, return_dict=False)
    assert rendered.text == stock.apply_chat_template(TALK, tokenize=False)
    runs, inside = [], False
    for token, is_answer in zip(rendered.tokens.tolist(), (rendered.flags & 1).tolist(), strict=True):
        if is_answer and not inside:
            runs.append([])
        if is_answer:
            runs[-1].append(token)
        inside = bool(is_answer)
    # A sentencepiece decoder drops a run's first space, and these decode spaces around added tokens in their own way.
    decoded = [model.decode(run).replace(" <|eot|>", "<|eot|>").strip(" ") for run in runs]
    assert decoded == [answer.strip(" ") for answer in answers]


def test_a_batch_gives_what_each_alone_gives(model):
    template = ChatTemplate(model, "tokenizer", MISTRAL)
    system = [{"role": "system", "content": "Be brief."}, *TALK]
    special = [{"role": "user", "content": "<|eot|>"}, TALK[1]]
    batch = template.render_batch([(each, None) for each in (TALK, system, TALK[:2], special)])
    assert [type(each) for each in batch] == [Rendered, RecordError, Rendered, RecordError]
    assert str(batch[1]) == (
        "the chat template refuses it (Conversation roles must alternate user/assistant/user/assistant/...)"
    )
    for number, messages in ((0, TALK), (2, TALK[:2])):
        alone = template.render(messages)
        assert batch[number].tokens.tolist() == alone.tokens.tolist()
        assert batch[number].flags.tolist() == alone.flags.tolist()


def test_what_is_rendered_does_not_depend_on_the_day(tokenizer):
    rendered = ChatTemplate(with_special_tokens(tokenizer), "tokenizer", DATED).render(TALK)
    assert rendered.text.startswith("26 Jul 2024")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(messages) }}", "unsafe"),
        ("{{ messages[0].nothing.at_all }}", "no attribute 'nothing'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages + 1 }}", "can only concatenate"),
        ("{% for n in range(10 ** 9) %}{% endfor %}", "Range too big"),
    ],
)
def test_a_template_runs_in_a_sandbox(tokenizer, body, reason):
    with pytest.raises(RecordError, match=f"the chat template refuses it .*{reason}"):
        ChatTemplate(tokenizer, "tokenizer", body).render(TALK)


def test_a_template_that_does_not_end_is_ended(tokenizer, monkeypatch):
    monkeypatch.setattr(templates, "_RENDER_SECONDS", 0.2)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    template = ChatTemplate(tokenizer, "tokenizer", loops)
    with pytest.raises(ConfigError, match=r"the chat template of tokenizer .* does not end: .* use template=default"):
        template.render(TALK)


@pytest.mark.parametrize(
    "body",
    [
        "{{ 'x' * 10 ** 9 }}",
        "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ 10 ** (10 ** 10) }}",
        "{% set n = namespace(t='x') %}{% for a in range(99) %}{% set n.t = n.t * 99 %}{% endfor %}",
    ],
)
def test_a_template_that_fills_memory_is_ended(tokenizer, body):
    with pytest.raises(ConfigError, match="makes more than 16,777,216 characters of one conversation"):
        ChatTemplate(tokenizer, "tokenizer", body).render(TALK)


def test_a_long_conversation_is_rendered(tokenizer):
    talk = [{"role": "user", "content": "x" * (1 << 25)}, {"role": "assistant", "content": "fine"}]
    body = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert len(templates.render(body, talk, {})) == (1 << 25) + 4


def test_special_tokens_that_are_words_of_the_vocabulary_alone_are_read_as_such(tokenizer_dir, tmp_path):
    definition = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    (bos,) = (each for each in definition["added_tokens"] if each["content"] == "<s>")
    definition["added_tokens"].remove(bos)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    (tmp_path / "tokenizer_config.json").write_bytes((tokenizer_dir / "tokenizer_config.json").read_bytes())
    _, loaded = load_chat_tokenizer(SftPrepConfig(tokenizer=TokenizerConfig(name=str(tmp_path))))
    assert loaded.encode("<s>a</s>") == [0, *loaded.encode("a"), 1]


def test_a_template_that_is_not_jinja_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match=r"template of tokenizer 'x' is not valid Jinja \(line 1: .*template=default"):
        check_template("{% for m in messages %}", owner="x")
    check_template(json.dumps(TALK), owner="x")
