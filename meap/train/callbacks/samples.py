"""What the model answers to held-out prompts, each time held-out loss is measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from composer.core import Callback, State
from composer.core.precision import get_precision_context
from composer.loggers import Logger
from composer.utils import dist
from transformers import GenerationConfig

from meap.config import TrainConfig
from meap.data import Prompt, RowLoader, read_prompts
from meap.tokenizer import Tokenizer
from meap.train.data import RunData
from meap.train.model import NextTokenModel
from meap.train.usage import usage_of

__all__ = ["Samples"]

_MOST_CHARACTERS = 2000
"""Of a prompt, the end of which is kept."""


class Samples(Callback):
    """Let the model continue the first held-out prompts, greedily, and log the texts.

    Every rank computes all of them, as those with sharded weights must run the same steps. Nothing is drawn at random,
    and the model is left as it was: losses and weights are those of a run without samples.

    Args:
        model: The model that is trained.
        tokenizer: The tokenizer of the data.
        heldout: The held-out rows; without any there are no prompts.
        count: Prompts; 0 for none.
        num_tokens: Tokens of an answer at most.
        stop_ids: Ids that end an answer, beside EOS.

    Logs:
        samples: A table, which each logger shows in its own way: row, prompt, answer, and the expected text.
    """

    def __init__(
        self,
        model: NextTokenModel,
        tokenizer: Tokenizer,
        *,
        heldout: RowLoader | None,
        count: int,
        num_tokens: int,
        stop_ids: Iterable[int] = (),
    ) -> None:
        context = int(model.config.max_position_embeddings)
        self._model = model
        self._tokenizer = tokenizer
        self._heldout = heldout
        self._count = count
        self._num_tokens = min(num_tokens, context // 2)
        self._longest = context - self._num_tokens
        self._stop_ids = [*dict.fromkeys([*stop_ids, tokenizer.eos_id])]
        self._prompts: list[Prompt] | None = None

    @classmethod
    def of(cls, config: TrainConfig, data: RunData, model: NextTokenModel) -> Samples:
        """For a run."""
        return cls(
            model,
            data.tokenizer,
            heldout=data.heldout_loader,
            count=config.samples,
            num_tokens=config.sample_tokens,
            stop_ids=usage_of(data, model).ends(data.tokenizer.eos_id),
        )

    def eval_end(self, state: State, logger: Logger) -> None:
        """Answer and log."""
        if not self._count or self._heldout is None:
            return
        if self._prompts is None:  # when the loader has its workers: they start from a process that read nothing
            limits = {"longest": self._longest, "most_expected": self._num_tokens}
            self._prompts = read_prompts(self._heldout, count=self._count, **limits)
        if not self._prompts:
            return
        rows = [
            [prompt.row, self._text(prompt.ids)[-_MOST_CHARACTERS:], self._text(answer), self._text(prompt.expected)]
            for prompt, answer in zip(self._prompts, self._answers(state, self._prompts), strict=True)
        ]
        logger.log_table(["row", "prompt", "answer", "expected"], rows, name="samples")

    def _answers(self, state: State, prompts: Sequence[Prompt]) -> list[list[int]]:
        length = max(len(prompt.ids) for prompt in prompts)
        pad = self._stop_ids[0]
        ids_BT = torch.tensor([[pad] * (length - len(prompt.ids)) + prompt.ids for prompt in prompts])
        is_token_BT = torch.tensor([[0] * (length - len(prompt.ids)) + [1] * len(prompt.ids) for prompt in prompts])
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=self._num_tokens,
            use_cache=True,
            eos_token_id=self._stop_ids,
            pad_token_id=pad,
            # The mask token is an input symbol, and rows that pad the embedding have no text.
            suppress_tokens=[
                self._tokenizer.mask_id,
                *range(self._tokenizer.vocab_size, int(self._model.config.vocab_size)),
            ],
        )
        device, context = state.device, get_precision_context(state.precision, state.precision_config)
        with torch.no_grad(), context, self._model.generating(settings) as decoder:
            ids_BT, is_token_BT = device.tensor_to_device(ids_BT), device.tensor_to_device(is_token_BT)
            answered_BT = decoder.generate(ids_BT, attention_mask=is_token_BT, synced_gpus=dist.get_world_size() > 1)
        return [self._ended(row[length:]) for row in answered_BT.tolist()]

    def _ended(self, ids: list[int]) -> list[int]:
        """What stands before the first stop id."""
        ends = [place for place, each in enumerate(ids) if each in self._stop_ids]
        return ids[: ends[0]] if ends else ids

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)
