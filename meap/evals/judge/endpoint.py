"""Prompts -> replies of an OpenAI-compatible endpoint: concurrent, with retries, within a budget."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from typing import Any

from meap.back_off import BackOff, GaveUpError
from meap.config import JudgeConfig
from meap.errors import ConfigError, JudgeError
from meap.evals.judge.answers import read_answer
from meap.evals.judge.budget import Budget
from meap.evals.judge.replies import Reply, ReplyStore
from meap.evals.responses import hash_of
from meap.extras import require_packages

__all__ = ["Endpoint", "most_tokens"]

_LONGEST_WAIT = 60.0
_FRAME_TOKENS = 64
_NEVER_SENT = ("ConnectError", "ConnectTimeout")
_WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"stream": True},
)
"""How a reply is asked for: the next is tried if a server refuses one for its streaming."""


class Endpoint:
    """A judge behind an endpoint.

    Args:
        config: Its URL, prices, budget and retries.

    Raises:
        ConfigError: The environment does not hold the key.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self._key = _find_key(config.key_variable)
        self._way = 0

    def ask(
        self,
        prompts: Iterable[str],
        store: ReplyStore,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Reply]:
        """A reply to each prompt; those that `store` holds are not asked again.

        Args:
            prompts: Questions, each a separate conversation.
            store: Store of replies.
            progress: Called with the number of new replies, and the number of questions to ask.

        Raises:
            JudgeError: The endpoint refuses, fails for too long, or would exceed the budget; replies so far are kept.
        """
        keys = {prompt: self._key_of(prompt) for prompt in prompts}
        missing = [prompt for prompt, key in keys.items() if store.get(key) is None]
        if missing:
            self._ask_all(missing, keys, store, progress)
        found = {prompt: store.get(key) for prompt, key in keys.items()}
        return {prompt: reply for prompt, reply in found.items() if reply is not None}

    def price(self, input_tokens: float, output_tokens: float) -> float:
        """Dollars for a number of tokens."""
        prices = (self.config.input_price or 0.0, self.config.output_price or 0.0)
        return (input_tokens * prices[0] + output_tokens * prices[1]) / 1e6

    def _key_of(self, prompt: str) -> str:
        return hash_of([self.config.model, self.config.max_new_tokens, prompt])

    def _ask_all(
        self, prompts: list[str], keys: dict[str, str], store: ReplyStore, progress: Callable[[int, int], None]
    ) -> None:
        require_packages("judge.model", "openai", extra="eval")
        from openai import OpenAI

        from meap.evals.judge.bounded import bounded_client

        stopped = threading.Event()
        budget = Budget(self.config.max_cost, store.spent)
        with (
            OpenAI(
                api_key=self._key,
                base_url=self.config.base_url,
                timeout=self.config.timeout,
                max_retries=0,  # retried here, where every request counts towards the budget
                http_client=bounded_client(self.config.timeout, self.config.longest),
            ) as client,
            ThreadPoolExecutor(self.config.parallel, thread_name_prefix="judge") as pool,
        ):
            waiting = [
                pool.submit(self._ask, client, prompt, keys[prompt], store, budget, stopped) for prompt in prompts
            ]
            try:
                for done, each in enumerate(as_completed(waiting), start=1):
                    each.result()
                    progress(done, len(waiting))
            except BaseException:
                # Requests in flight are paid for: wait for their replies and keep them.
                stopped.set()
                for each in waiting:
                    each.cancel()
                raise

    def _ask(
        self, client: Any, prompt: str, key: str, store: ReplyStore, budget: Budget, stopped: threading.Event
    ) -> None:
        try:
            self._ask_until_answered(client, prompt, key, store, budget, stopped)
        except Exception:
            stopped.set()  # here, before this thread takes the next prompt
            raise

    def _ask_until_answered(
        self, client: Any, prompt: str, key: str, store: ReplyStore, budget: Budget, stopped: threading.Event
    ) -> None:
        most = self.price(most_tokens(prompt), self.config.max_new_tokens)

        def ask_once() -> None:
            if stopped.is_set():
                return
            budget.reserve(most)
            spent = 0.0
            try:
                if stopped.is_set():
                    return
                reply = self._request(client, prompt, key, most)
                store.add(reply)
                spent = reply.dollars
            except _RepeatableError as error:
                if error.paid:
                    spent = most
                    store.add_lost(most, str(error))
                raise
            finally:
                budget.settle(most, spent)

        # Jitter: simultaneous retries would overload a busy server again.
        attempts = self.config.retries + 1
        back_off = BackOff(attempts, self.config.backoff, longest_wait=_LONGEST_WAIT, spread=(0.75, 1.0))
        try:
            back_off.run(
                ask_once,
                is_final=lambda error: not isinstance(error, _RepeatableError),
                asked_wait=lambda error: error.wait if isinstance(error, _RepeatableError) else 0.0,
                sleep=stopped.wait,
            )
        except GaveUpError as gave_up:
            if not isinstance(gave_up.error, _RepeatableError):
                raise gave_up.error from gave_up.error.__cause__
            raise JudgeError(
                f"judge.base_url={self.config.base_url} has not answered in {attempts} attempts ({gave_up.error}); "
                "replies so far are kept: run the same command again when the endpoint answers"
            ) from None  # its text may hold the key

    def _request(self, client: Any, prompt: str, key: str, most: float) -> Reply:
        import openai

        way = self._way
        try:
            # The text, not the library's objects: servers differ in what they send.
            response = client.chat.completions.with_raw_response.create(
                model=self.config.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=0,
                max_tokens=self.config.max_new_tokens,
                extra_body=_WAYS[way],
            )
            answer = read_answer(response.http_response.text)
        except openai.APIStatusError as error:
            reason = f"status {error.status_code}: {self._without_key(str(error))}"
            if error.status_code in {408, 409, 429} or error.status_code >= 500:
                raise _RepeatableError(reason, wait=_retry_after(error.response.headers)) from error
            if "stream" in str(error).lower() and way + 1 < len(_WAYS):
                self._way = max(self._way, way + 1)
                return self._request(client, prompt, key, most)
            raise JudgeError(
                f"judge.base_url={self.config.base_url} refuses a request ({reason}): check judge.model="
                f"{self.config.model} and the key in {self.config.key_variable or 'judge.key_variable'}"
            ) from None  # its text may hold the key
        except openai.APIConnectionError as error:
            cause = type(error.__cause__).__name__
            raise _RepeatableError(f"{error} {cause}", paid=cause not in _NEVER_SENT) from error
        except (openai.OpenAIError, ValueError, AttributeError, TypeError, LookupError) as error:
            # A proxy's page, or half a reply.
            raise _RepeatableError(f"a malformed reply, {type(error).__name__}", paid=True) from error
        dollars = most if answer.tokens is None else self.price(*answer.tokens)
        model = answer.model or str(self.config.model)
        return Reply(key, answer.text, model, datetime.now(UTC).isoformat(timespec="seconds"), dollars)

    def _without_key(self, message: str) -> str:
        """The start of a server's message without the key, which it may echo."""
        return message.replace(self._key, "***")[:300]


class _RepeatableError(Exception):
    """A request that failed and may be retried."""

    def __init__(self, reason: str, *, wait: float = 0.0, paid: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds that the server asks for."""
        self.paid = paid
        """Whether it may have cost money."""


def most_tokens(prompt: str) -> int:
    """Most tokens of a prompt with any tokenizer of a judge: one per byte, and a few for the frame."""
    return len(prompt.encode()) + _FRAME_TOKENS


def _find_key(variable: str | None) -> str:
    if variable is None:
        return "none"
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"judge.key_variable={variable}: the environment has no such variable, or an empty one; set it to the key "
            "of judge.base_url, or give judge.key_variable=null if it needs none"
        )
    return key


def _retry_after(headers: Any) -> float:
    try:
        return max(0.0, float(headers.get("retry-after", "0")))
    except ValueError:
        return 0.0  # a date
