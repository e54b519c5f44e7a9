"""LoRA: a frozen base, and low-rank adapters of its linear layers that are trained instead (Hu et al. 2021), by peft.

Checkpoints hold what is trained: adapters, the mask token's row of the embedding, and the optimiser's state of both.
The base is read again when a run resumes or is exported, and must have the weights whose fingerprint the record states.

The mask token is new to most bases, and no adapter reaches the embedding: its row alone is trained, in its place. A
model whose head shares the embedding computes with that row there, too, but without a gradient: no target is a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
import xxhash
from transformers import PreTrainedModel

from meap.config import LoraConfig
from meap.errors import ConfigError
from meap.extras import require_packages
from meap.train.model import NextTokenModel

__all__ = ["adapters_of", "add_adapters", "fingerprint_weights", "freeze", "merge_adapters"]

_MASK_ROW = "mask_row"


def add_adapters(model: NextTokenModel, config: LoraConfig, *, mask_id: int, seed: int) -> None:
    """Freeze a model and give it adapters, which change nothing before the first step.

    Args:
        model: The base in fp32, with a row for the mask token; changed in place.
        config: Section `lora` of the configuration.
        mask_id: Id of the mask token.
        seed: Seed of the adapters' weights; the same seed gives the same weights on any machine.

    Raises:
        ConfigError: No layer has a name that `lora.target_modules` asks for.
        MissingPackageError: peft is not installed.
    """
    require_packages(f"lora.rank={config.rank}", "peft", extra="lora")
    import peft

    decoder = model.model
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=cast("int", config.scale),  # any number will do
        lora_dropout=config.dropout,
        use_rslora=config.use_rslora,
        target_modules=[*config.target_modules] or "all-linear",
        task_type=peft.TaskType.CAUSAL_LM,
    )
    is_meta = any(parameter.is_meta for parameter in decoder.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(settings, decoder, low_cpu_mem_usage=is_meta)
        except ValueError as error:
            raise ConfigError(
                f"lora.target_modules={[*config.target_modules]}: no linear layer of the {model.config.model_type} "
                "decoder has such a name; leave it unset for all of them, or name some, such as q_proj and v_proj"
            ) from error
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_("lora_" in name)
    if config.train_mask:
        _train_row(model, mask_id)
    model.should_save_peft_only = True  # type: ignore[assignment]  # Composer's switch: off while it hands weights out to the ranks
    model.register_state_dict_post_hook(_leave_out_frozen)
    model.register_load_state_dict_pre_hook(_keep_frozen)


def freeze(model: NextTokenModel, dtype: torch.dtype, *, rounded_only: bool = False) -> None:
    """Keep frozen weights in `dtype`; or in fp32, rounded to it."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            narrow = parameter.data.to(dtype)
            parameter.data = narrow.float() if rounded_only else narrow


def fingerprint_weights(model: PreTrainedModel) -> str:
    """Hash of all weights, by name, of a model in fp32 on the CPU."""
    digest = xxhash.xxh3_128()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(memoryview(weight.contiguous().view(-1).view(torch.uint8).numpy()))
    return f"xxh3_128:{digest.hexdigest()}"


def adapters_of(model: NextTokenModel) -> tuple[Any, dict[str, torch.Tensor]]:
    """Adapters as peft stores them: their `peft.LoraConfig`, and weights by name."""
    decoder: Any = model.model
    weights = {
        f"base_model.model.{name.replace('.default.', '.')}": weight
        for name, weight in decoder.state_dict().items()
        if ".lora_" in name
    }
    return decoder.peft_config["default"], weights


@torch.no_grad()
def merge_adapters(model: NextTokenModel) -> None:
    """Add adapters and the mask token's row to the base's weights: the decoder is a plain one then, of equal logits."""
    for parent, name, layer in [*_adapted_layers(model.model)]:
        layer.merge()
        setattr(parent, name, layer.get_base_layer())
    embedding: Any = model.model.get_input_embeddings()
    if hasattr(embedding, _MASK_ROW):
        embedding.weight[embedding.mask_id] = embedding.mask_row[0]
        del embedding.mask_row
        embedding.__dict__.pop("forward")
        if model.config.tie_word_embeddings:
            del model.head_weight


def _adapted_layers(decoder: PreTrainedModel) -> Iterator[tuple[torch.nn.Module, str, Any]]:
    from peft.tuners.lora import LoraLayer

    for path, layer in decoder.named_modules():
        if isinstance(layer, LoraLayer):
            parent, _, name = path.rpartition(".")
            yield decoder.get_submodule(parent), name, layer


def _train_row(model: NextTokenModel, mask_id: int) -> None:
    embedding: Any = model.model.get_input_embeddings()
    row = embedding.weight.detach()[mask_id : mask_id + 1].clone()
    embedding.register_parameter(_MASK_ROW, torch.nn.Parameter(row))
    embedding.mask_id = mask_id
    embedding.forward = partial(_embed, embedding, embedding.forward)
    if model.config.tie_word_embeddings:
        model.head_weight = partial(_tied_head, embedding)  # type: ignore[method-assign]


def _embed(embedding: Any, stock: Callable[..., torch.Tensor], ids_BT: torch.Tensor) -> torch.Tensor:
    embedded_BTD = stock(ids_BT)
    row = embedding.mask_row.to(embedded_BTD.dtype)
    return torch.where((ids_BT == embedding.mask_id).unsqueeze(-1), row, embedded_BTD)


def _tied_head(embedding: Any) -> torch.Tensor:
    weight_VD, row = embedding.weight, embedding.mask_row.detach()
    place = torch.tensor([embedding.mask_id], device=weight_VD.device)
    return weight_VD.index_copy(0, place, row.to(weight_VD.dtype))


def _leave_out_frozen(module: Any, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    if module.should_save_peft_only:
        for name in _frozen(module):
            state_dict.pop(f"{prefix}{name}", None)


def _keep_frozen(module: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """What a checkpoint leaves out stays as it is; adapters must all be there."""
    for name, parameter in _frozen(module).items():
        state_dict.setdefault(f"{prefix}{name}", parameter.detach())


def _frozen(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    found = module.named_parameters(remove_duplicate=False)  # tied weights have two names
    return {name: parameter for name, parameter in found if not parameter.requires_grad}
