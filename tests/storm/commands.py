"""What is prepared and trained, and the commands for it, as a person types them."""

import json
import shlex
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from .settings import SEQ_LEN, SMALL

MAX_LENGTH = SEQ_LEN // 2
LONG = {"data.seq_len": 2 * SEQ_LEN, "model.base_rope_theta": 20_000.0}
"""Of a run that goes on from another one on longer rows."""
CORPORA = {"web": "crawl", "books": "other", "pages": "crawl", "chats": "chats"}


@dataclass(frozen=True)
class Data:
    """A data set: what decides its bytes."""

    kind: str
    corpus: str
    settings: dict[str, str]
    base: "Run | None" = None

    def words(self, remote: str, *, workers: int, base_dir: str = "") -> list[str]:
        source = f"source={self.corpus}/*.jsonl.gz"
        given = [f"{key}={value}" for key, value in self.settings.items()] + [f"workers={workers}", f"remote={remote}"]
        if self.kind != "prepare_chats":
            seq_len = LONG["data.seq_len"] if self.kind == "prepare_long" else SEQ_LEN
            return ["dataprep/c4_to_mds.py", source, "tokenizer.name=my-tokenizer", f"seq_len={seq_len}", *given]
        sizes = [f"max_length={MAX_LENGTH}", f"seq_len={SEQ_LEN}", "min_answer_tokens=4"]
        return ["dataprep/sft_to_mds.py", source, f"tokenizer.name={base_dir}", *sizes, *given]


@dataclass(frozen=True)
class Run:
    """A run: what decides its steps, and the ranks that make their losses equal to the bit."""

    settings: dict[str, str]
    data: dict[str, Data] = field(default_factory=dict[str, Data])
    base: "Run | None" = None
    ranks: int = 1

    @property
    def tunes(self) -> bool:
        """Whether it is a fine-tuning; else, with a base, it extends that one's context."""
        return any(each.kind == "prepare_chats" for each in self.data.values())

    @property
    def recipe(self) -> str:
        return "recipes/meap_sft.py" if self.tunes else "recipes/meap_1b.py"

    def base_dir(self, run_dir: str) -> str:
        """What it begins with of its base, whose folder is given: the export, or the run itself."""
        return f"{run_dir}/hf" if self.tunes else run_dir

    @property
    def steps(self) -> int:
        return int(self.settings["train.max_duration"].removesuffix("ba"))

    def longer(self, steps: int) -> "Run":
        return replace(self, settings=self.settings | {"train.max_duration": f"{steps}ba"})

    def write_yaml(self, path: Path, remotes: dict[str, str], *, base_dir: str = "", folder: str = "") -> None:
        """The run's own yaml."""
        values = {key: value for key, value in SMALL.items() if self.base is None or not key.startswith("model.")}
        values |= self.settings
        if self.base is not None:
            values |= {"model.base": base_dir, **({} if self.tunes else LONG)}
        if folder:
            values["checkpoint.folder"] = folder
        nested = _nested(
            {
                key: yaml.safe_load(str(value)) if key != "masking.replacement" else value
                for key, value in values.items()
            }
        )
        nested.setdefault("data", {})
        if len(remotes) > 1:
            for name, remote in remotes.items():
                nested["data"].setdefault("streams", {}).setdefault(name, {})["remote"] = remote
        else:
            nested["data"]["remote"] = next(iter(remotes.values()))
        path.write_text(yaml.safe_dump(nested))

    def words(self, name: str, *, workers: int) -> list[str]:
        return [self.recipe, f"{name}.yaml", f"data.num_workers={workers}"]


def key_of(spec: Data | Run, *more: Any) -> str:
    """The same for what is the same."""
    return json.dumps([asdict(spec), *more], sort_keys=True)


def typed(words: list[str], ranks: int, *, nodes: bool = False) -> str:
    """The command line of a terminal; of several nodes, that of each."""
    if nodes:
        each = f"--world_size {ranks} --node_rank {{0..{ranks - 1}}} --master_addr 127.0.0.1 --master_port 29400"
        return f"composer -n 1 {each} {shlex.join(words)}"
    if ranks > 1:
        return shlex.join(["composer", "-n", str(ranks), *words])
    return shlex.join(words[1:] if words[:2] == ["-m", "meap"] else ["python", *words])


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return nested
