"""Exports a trained model as a Hugging Face folder that does not depend on this project.

The folder is written under a temporary name, loaded back with transformers' own attention, compared with the model in
memory, and only then renamed: a folder that exists was verified.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from meap import __version__
from meap.errors import CheckpointError, ConfigError
from meap.export.card import model_card
from meap.export.prompting import Prompting
from meap.export.weights import DTYPES, round_weights, write_weights
from meap.json_text import parse_json
from meap.noise import hide_loading_bars
from meap.places.addresses import is_url
from meap.places.whole import whole_folder
from meap.rope import former_rope
from meap.tokenizer import Tokenizer
from meap.usage import EXPORT_RECORD_NAME, Usage, read_export_record

__all__ = [
    "ROUNDING_TOLERANCE",
    "TOLERANCE",
    "ExportRecord",
    "ExportSource",
    "export_model",
    "require_replaceable",
]

TOLERANCE: Final = 1e-5
"""Largest difference of a logit, in fp32, between the folder as loaded by transformers and the model in memory.

It holds whatever the weights are stored in: weights that are rounded to bf16 in the folder are rounded in memory too.
"""

ROUNDING_TOLERANCE: Final = 0.1
"""Largest root mean square change of a logit by rounding, relative to the spread of logits.

Rounding to bf16 changes a weight by 0.1 % (root mean square), and a hundred matrices one after the other make that 1 %.
"""

_COMPARED_ROWS = 3
_COMPARED_TOKENS = 256


@dataclass(frozen=True)
class ExportSource:
    """Where a model came from."""

    run: str
    """Name of the run."""
    checkpoint: str
    """File name of the checkpoint."""
    step: int | None
    """Optimiser steps taken."""
    tokens: int | None
    """Input tokens seen in training."""
    masking_ratio: float
    """Share of input tokens (in fine-tuning: of the copies' answers) masked in training; 0 is plain NTP."""
    replacement: str = "mask"
    """What these became: `masking.replacement`."""
    reversed_ratio: float = 0.0
    """Share of the rows that were read right to left."""
    base: str | None = None
    """The finished model that training started from; None for a model trained from scratch."""


@dataclass(frozen=True)
class ExportRecord:
    """What ``meap_export.json`` holds."""

    source: ExportSource
    kind: str
    """`rows` or `conversations`: whether it is prompted with text or by its chat template."""
    parameters: int
    vocab_size: int
    """Ids of the tokenizer; the embedding has more rows, padded."""
    tokenizer_fingerprint: str
    mask_token: str | None
    """None where the mask token was dropped."""
    mask_id: int | None
    dtype: str
    """What the weights are stored in, fp32 or bf16."""
    max_abs_diff: float
    """Largest difference of a logit found by the verification."""
    rounding: float
    """Change of logits by rounding the weights, relative to the spread of logits; 0 for fp32."""
    versions: dict[str, str]


def require_replaceable(out_dir: str, run: str) -> Path:
    """The folder to write; call it before the work starts.

    Raises:
        ConfigError: It is a URL or a file, or cannot be renamed.
        CheckpointError: It holds other things than an export, or the export of another run.
    """
    folder = Path(out_dir)
    if is_url(out_dir):
        raise ConfigError(f"export.out_dir={out_dir} is a URL: export to a local folder, then copy it")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"export.out_dir={out_dir} is a file: choose another folder")
    if not folder.is_dir():
        return folder
    whole = folder.resolve()
    if whole.is_mount() or not os.access(whole.parent, os.W_OK | os.X_OK):
        raise ConfigError(
            f"export.out_dir={out_dir} cannot be replaced as a whole, since a disk is mounted there, or nothing may be "
            f"written beside it: choose a folder in it, such as {folder / 'hf'}"
        )
    if not any(folder.iterdir()):
        return folder
    record = read_export_record(folder)
    if record is None:
        raise CheckpointError(
            f"export.out_dir={out_dir} holds files that are not an export (no readable {EXPORT_RECORD_NAME}) and would "
            "be lost: choose another folder, or empty it yourself"
        )
    owner = record["source"]["run"]
    if owner != run:
        raise CheckpointError(
            f"export.out_dir={out_dir} holds the export of run {owner!r}, not of {run!r}: choose another folder, or "
            "remove it yourself"
        )
    return folder


def export_model(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    out_dir: Path,
    source: ExportSource,
    *,
    usage: Usage,
    dtype: str = "fp32",
    max_shard_size: str = "5GB",
    drop_mask_to: int | None = None,
) -> ExportRecord:
    """Write `model` and `tokenizer` to `out_dir`, verified, replacing the run's earlier export.

    Args:
        model: A transformers causal language model in fp32, with any attention.
        tokenizer: The tokenizer it was trained with, mask token included.
        out_dir: Folder that `require_replaceable` accepted.
        source: Where the model came from.
        usage: How it is prompted, as its checkpoint records it.
        dtype: What weights are stored in: fp32, or bf16 (`model`'s are rounded as well).
        max_shard_size: Largest file of weights, such as 5GB; a model with more has several, and an index.
        drop_mask_to: Leave out the mask token and cut the embedding to this many rows (`model` is changed); None keeps
            both. `meap.checkpoints.reading.rows_without_mask` gives the number.

    Raises:
        CheckpointError: The folder, loaded back, computes other logits than `model`, or rounding changes them much.
    """
    with_mask = drop_mask_to is None
    if drop_mask_to is not None and drop_mask_to < model.config.vocab_size:
        model.resize_token_embeddings(drop_mask_to, mean_resizing=False)
    num_ids = tokenizer.vocab_size if with_mask else tokenizer.plain_vocab_size
    mask_id = tokenizer.mask_id if with_mask else None
    rows_BT = _compared_rows(model.config.max_position_embeddings, num_ids=num_ids, mask_id=mask_id)
    expected, rounding = _logits(model, rows_BT), 0.0
    if DTYPES[dtype] != torch.float32:
        trained = expected
        round_weights(model, DTYPES[dtype])
        expected = _logits(model, rows_BT)
        rounding = _require_close(trained, expected)
    with whole_folder(out_dir) as draft:
        write_weights(model, draft, dtype=DTYPES[dtype], max_shard_size=max_shard_size)
        prompting = Prompting(tokenizer, usage, with_mask=with_mask, context=model.config.max_position_embeddings)
        _write_config(model, prompting, draft, dtype=DTYPES[dtype])
        prompting.write(draft)
        record = ExportRecord(
            source=source,
            kind=usage.kind,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            vocab_size=num_ids,
            tokenizer_fingerprint=tokenizer.fingerprint,
            mask_token=tokenizer.mask_token if with_mask else None,
            mask_id=mask_id,
            dtype=dtype,
            max_abs_diff=_verify(draft, rows_BT, expected),
            rounding=rounding,
            versions={"meap": __version__, "torch": torch.__version__, "transformers": version("transformers")},
        )
        (draft / "README.md").write_text(
            model_card(dataclasses.asdict(record), model.config, prompting), encoding="utf-8"
        )
        (draft / EXPORT_RECORD_NAME).write_text(
            json.dumps(dataclasses.asdict(record), indent=2) + "\n", encoding="utf-8"
        )
        require_replaceable(str(out_dir), source.run)  # another run's export may have come meanwhile
    return record


def _write_config(model: PreTrainedModel, prompting: Prompting, folder: Path, *, dtype: torch.dtype) -> None:
    config = copy.deepcopy(model.config)
    config.use_cache = True  # training turns it off; generation is slow without it
    config.architectures = [type(model).__name__]
    config.dtype = dtype
    if prompting.tokenizer.bos_id is not None:
        config.bos_token_id = prompting.tokenizer.bos_id
    config.eos_token_id = prompting.eos_token_id
    config.save_pretrained(folder)
    written = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    # Readers older than transformers 4.56 know `dtype` by its former name.
    former_names = {"torch_dtype": str(dtype).removeprefix("torch.")}
    former_names |= former_rope(written.get("rope_parameters"))
    (folder / "config.json").write_text(json.dumps(written | former_names, indent=2, sort_keys=True))


def _compared_rows(context: int, *, num_ids: int, mask_id: int | None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows_BT = torch.randint(num_ids, (_COMPARED_ROWS, min(_COMPARED_TOKENS, context)), generator=generator)
    if mask_id is not None:
        rows_BT[:, 1::7] = mask_id
    return rows_BT


@torch.inference_mode()
def _logits(model: PreTrainedModel, rows_BT: torch.Tensor) -> list[torch.Tensor]:
    was_training = model.training
    model.eval()
    logits = [model(row_BT).logits.float() for row_BT in rows_BT.split(1)]
    model.train(was_training)
    return logits


def _require_close(trained: list[torch.Tensor], rounded: list[torch.Tensor]) -> float:
    """Root mean square change of a logit by rounding, relative to the spread of a position's logits."""
    change = torch.stack([(one - other).square().mean() for one, other in zip(rounded, trained, strict=True)]).mean()
    spread = torch.stack([each.var(dim=-1).mean() for each in trained]).mean()
    relative = float((change / spread).sqrt())
    # Also false for NaN.
    if not relative < ROUNDING_TOLERANCE:
        raise CheckpointError(
            f"rounding the weights to bf16 changes logits by {relative:.1%} of their spread, less than "
            f"{ROUNDING_TOLERANCE:.0%} is allowed: nothing was exported. Set export.dtype=fp32"
        )
    return relative


def _verify(folder: Path, rows_BT: torch.Tensor, expected: list[torch.Tensor]) -> float:
    """Largest difference of a logit between `expected` and the folder as transformers loads it, computed in fp32."""
    hide_loading_bars(folder)
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    differences = [(one - other).abs().max() for one, other in zip(_logits(loaded, rows_BT), expected, strict=True)]
    largest = float(torch.stack(differences).max())
    # Also false for NaN.
    if not largest < TOLERANCE:
        raise CheckpointError(
            f"the exported model differs from the trained one by {largest:.2e} in a logit, {TOLERANCE:.0e} is allowed: "
            "nothing was exported. Check that the checkpoint is whole, and the transformers version"
        )
    return largest
