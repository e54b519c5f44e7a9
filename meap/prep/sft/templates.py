"""Chat templates: which one is used, and how its text is rendered.

A template is a program from outside. It renders as in transformers' ``apply_chat_template``, in Jinja's immutable
sandbox, which reaches neither files nor Python's own attributes. Here it also has limits of time and size, and a clock
that stands still: what is written must not depend on the day (Llama-3.2's template writes the date).
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

from meap.errors import ConfigError
from meap.prep.sft.messages import Messages
from meap.tokenizer import Tokenizer

__all__ = [
    "DEFAULT_TEMPLATE",
    "check_template",
    "choose_template",
    "has_marks",
    "render",
    "special_of_role",
    "time_limit",
]

_RENDER_SECONDS = 20.0
"""A conversation takes a fraction of a millisecond; a template that takes this long never ends."""
_MOST_CHARACTERS = 1 << 24
"""Of a rendered conversation, beyond a few copies of its messages."""
_COPIES = 4
_TODAY = datetime(2024, 7, 26, tzinfo=UTC)
"""The date that Llama-3's templates fall back to."""
_MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_SPECIAL_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")

DEFAULT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- set start = 0 %}"
    "{%- if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}{% set start = 1 %}"
    "{%- elif messages[0]['input'] %}"
    "{{ 'Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n' }}"
    "{%- else %}"
    "{{ 'Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n' }}"
    "{%- endif %}"
    "{%- for message in messages[start:] %}"
    "{%- if message['role'] == 'user' %}"
    "{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{%- if message['input'] %}{{ '### Input:\n' + message['input'] + '\n\n' }}{% endif %}"
    "{%- elif message['role'] == 'assistant' %}"
    "{{ '### Response:\n' + message['content'] + eos_token }}"
    "{%- else %}"
    "{{ raise_exception('no place for a later message of role ' + message['role'] + ' in the default template') }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
"""Alpaca's prompt format (github.com/tatsu-lab/stanford_alpaca), for base models that have no chat template.

A single turn is Alpaca's prompt, character by character; a system message replaces its first sentence, and further
turns repeat its headings, each answer closed by EOS.
"""


def choose_template(tokenizer: Tokenizer, wanted: str) -> tuple[str, str]:
    """Which template is used, `tokenizer` or `default`, and its text.

    Raises:
        ConfigError: The tokenizer's own is asked for, and it has none that is one template.
    """
    own = tokenizer.source_config.get("chat_template")
    if isinstance(own, list):
        own = next((each["template"] for each in own if each["name"] == "default"), None)
    if wanted == "default" or (wanted == "auto" and not own):
        return "default", DEFAULT_TEMPLATE
    if not isinstance(own, str) or not own:
        raise ConfigError(f"template=tokenizer, but tokenizer {tokenizer.name!r} has none: use template=default")
    return "tokenizer", own


def check_template(template: str, *, owner: str) -> None:
    """Compile a template.

    Args:
        template: Its Jinja text.
        owner: Tokenizer it comes from, for the error message.

    Raises:
        ConfigError: It is not Jinja.
    """
    from jinja2 import TemplateSyntaxError

    # Without messages the text is compiled, and nothing of it runs.
    try:
        render(template, [], {})
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"the chat template of tokenizer {owner!r} is not valid Jinja (line {error.lineno}: {error.message}): "
            "repair it, or use template=default"
        ) from error


def special_of_role(tokenizer: Tokenizer) -> dict[str, str]:
    """The special tokens that templates name bos_token, eos_token and so on, as at inference."""
    defined: dict[str, Any] = {role: tokenizer.source_config.get(role) for role in _SPECIAL_ROLES}
    contents = {
        role: cast("dict[str, Any]", token).get("content") if isinstance(token, dict) else token
        for role, token in defined.items()
    }
    own = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token, "mask_token": tokenizer.mask_token}
    return {role: token for role, token in contents.items() if isinstance(token, str)} | own


def has_marks(template: str) -> bool:
    """Whether a template marks answers with ``{% generation %}``, as transformers documents it."""
    return _MARK.search(template) is not None


def render(
    template: str,
    messages: Messages,
    special: Mapping[str, str],
    *,
    tools: list[dict[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    marks: list[tuple[int, int]] | None = None,
) -> str:
    """The text that a template makes of messages; without any, it is only compiled.

    Args:
        template: Its Jinja text.
        messages: The conversation.
        special: See `special_of_role`.
        tools: JSON schemas of the functions that may be called.
        add_generation_prompt: Whether the beginning of an answer follows.
        marks: Where the marked answers begin and end is appended to it.
    """
    compiled = _compile(template)
    if not messages:
        return ""
    variables: dict[str, Any] = {**special, "strftime_now": _TODAY.strftime}
    pieces, size = list[str](), -_COPIES * sum(len(message["content"]) for message in messages)
    variables |= {"tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt}
    with nullcontext() if marks is None else compiled.environment.activate_tracker(pieces, marks):
        for piece in compiled.generate(messages=messages, **variables):
            size += len(piece)
            _require_room(size)
            pieces.append(piece)
    return "".join(pieces)


@lru_cache(maxsize=8)
def _compile(template: str) -> Any:
    """The template in transformers' sandbox, in which products are bounded, too."""
    # We render it ourselves: transformers takes no clock of ours.
    from transformers.utils.chat_template_utils import _compile_jinja_template as compile_template

    environment: Any = compile_template("").environment  # whose own compilation would compute constants
    environment.intercepted_binops = frozenset({"*", "**"})
    environment.binop_table |= {"*": _product, "**": _power}
    return environment.from_string(template)


def _product(left: Any, right: Any) -> Any:
    for repeated, times in ((left, right), (right, left)):
        if isinstance(repeated, (str, list, tuple)) and isinstance(times, int):
            _require_room(len(repeated) * times)
    return left * right


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int):
        _require_room(base.bit_length() * exponent)
    return base**exponent


def _require_room(size: int) -> None:
    if size > _MOST_CHARACTERS:
        raise ConfigError(
            f"the chat template makes more than {_MOST_CHARACTERS:,} characters of one conversation: "
            "use template=default"
        )


@contextmanager
def time_limit(owner: str) -> Iterator[None]:
    """Interrupt the body with an error if it takes too long; in a main thread only, which is where tasks run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(*_: object) -> None:
        raise ConfigError(
            f"the chat template of tokenizer {owner!r} does not end: it took more than {_RENDER_SECONDS:.0f} s for one "
            "conversation; use template=default"
        )

    previous = signal.signal(signal.SIGALRM, give_up)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, _RENDER_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining, interval)
        signal.signal(signal.SIGALRM, previous)
