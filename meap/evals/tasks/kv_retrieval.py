"""Key-value retrieval: the value of a key in a JSON object of UUIDs; the synthetic task of lost in the middle.

Prompt and score are those of the repository nelson-liu/lost-in-the-middle (29b8a6d): ``kv_retrieval.prompt``, verbatim;
one pair a line; 75, 140 or 300 pairs, 500 objects; the asked pair moved to each position in turn; greedy decoding of
100 tokens; right if the value is anywhere in the response, ignoring case. Positions are those published: 0, 34, 69, 104
and 139 of 140. What differs: objects are drawn from a seed unless the published file is given, and keys may have fewer
digits than a UUID's 32, for models of short context. The paper does not report this task; a guess is never right.
"""

from __future__ import annotations

import random
import uuid
from functools import partial
from pathlib import Path

from meap.errors import BadInputError, ConfigError
from meap.evals.pictures import draw_curves
from meap.evals.rows import read_jsonl
from meap.evals.task import Example, Metric, Output, Scores, Task, TaskInputs
from meap.evals.tasks.multidoc_qa import WHERE_FILES_ARE

__all__ = ["TASK", "examples", "positions_of", "prompt", "score"]

_PROMPT = (
    "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{pairs}\n\n"
    'Key: "{key}"\nCorresponding value:'
)
_UUID_DIGITS = 32

Pairs = list[tuple[str, str]]


def prompt(pairs: Pairs, key: str) -> str:
    """The prompt."""
    lines = ",\n ".join(f'"{name}": "{value}"' for name, value in pairs)
    return _PROMPT.format(pairs=f"{{{lines}}}", key=key)


def positions_of(num_keys: int, number: int) -> list[int]:
    """Indices from the first to the last, evenly, as published; fewer if there are fewer keys."""
    return sorted({(num_keys - 1) * place // (number - 1) for place in range(number)})


def examples(inputs: TaskInputs) -> list[Example]:
    """Keys by position by object; an object is the same at all positions but that of its asked pair."""
    config = inputs.config.kv_retrieval
    asked: list[tuple[str, str, str, str, dict[str, int]]] = []
    for num_keys in config.keys:
        objects = (
            _read(Path(config.source), num_keys)
            if config.source is not None
            else [_draw(inputs.config.seed, num_keys, config.hex_digits, index) for index in range(config.examples)]
        )
        for position in positions_of(num_keys, config.positions):
            for index, (pairs, (key, value)) in enumerate(objects[: config.examples]):
                others = [pair for pair in pairs if pair[0] != key]
                placed = [*others[:position], (key, value), *others[position:]]
                facts = {"keys": num_keys, "position": position + 1}
                name = f"{num_keys}-{position + 1}-{index}"
                asked.append((name, prompt(placed, key), value, f"{num_keys}-{index}", facts))
    encoded = inputs.encode([text for _, text, *_ in asked])
    return [
        Example(name, ids, config.max_new_tokens, answers=(value,), cluster=cluster, facts=facts)
        for (name, _, value, cluster, facts), ids in zip(asked, encoded, strict=True)
    ]


def score(example: Example, output: Output) -> Scores:
    """Whether the response has the value."""
    return {"contains": float(example.answers[0].lower() in output.text.lower())}


def _draw(seed: int, num_keys: int, digits: int, index: int) -> tuple[Pairs, tuple[str, str]]:
    rng = random.Random(f"kv_retrieval {seed} {num_keys} {digits} {index}")  # noqa: S311 (not for secrets)
    pairs: dict[str, str] = {}
    while len(pairs) < num_keys:
        pairs[_identifier(rng, digits)] = _identifier(rng, digits)
    return list(pairs.items()), rng.choice(list(pairs.items()))


def _identifier(rng: random.Random, digits: int) -> str:
    if digits < _UUID_DIGITS:
        return f"{rng.getrandbits(4 * digits):0{digits}x}"
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _read(path: Path, num_keys: int) -> list[tuple[Pairs, tuple[str, str]]]:
    objects: list[tuple[Pairs, tuple[str, str]]] = []
    for number, row in enumerate(read_jsonl(path, key="kv_retrieval.source", remedy=WHERE_FILES_ARE), start=1):
        try:
            pairs = [(str(key), str(value)) for key, value in row["ordered_kv_records"]]
            asked = (str(row["key"]), str(row["value"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(
                f"{path}, line {number} has no ordered_kv_records, key and value ({error}): it is not a file of "
                "lost in the middle"
            ) from error
        if len(pairs) != num_keys or asked not in pairs:
            raise ConfigError(
                f"kv_retrieval.keys={num_keys}, but {path}, line {number} has {len(pairs)} keys, the asked one "
                f"{'among' if asked in pairs else 'not among'} them: set kv_retrieval.keys=[{len(pairs)}]"
            )
        objects.append((pairs, asked))
    return objects


TASK = Task(
    title="Key-value retrieval",
    examples=examples,
    score=score,
    metrics=(Metric("contains", "contains the value"),),
    by=("keys", "position"),
    draw=partial(draw_curves, x="position", metrics=("contains",), x_label="position of the asked pair"),
)
