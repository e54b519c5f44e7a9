"""Models that know everything or nothing, and a real one that is small."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from meap.config import EvaluationConfig, load_config
from meap.evals.hugging_face import HuggingFaceLM
from meap.evals.lm import Attention
from meap.evals.task import Example, LazyRows, TaskInputs
from meap.show.figures import save_panels
from meap.synthetic import generate_record_example
from meap.tokenizer import Tokenizer

from .judge_server import JudgeServer

SMALL = (
    *("model=m", "key_retrieval.examples=30", "key_retrieval.sentences=2"),
    *("record_retrieval.examples=16", "record_retrieval.sentences=[1,2]"),
    *("needle_fu.lengths=[400,600]", "needle_fu.depths=3", "needle_fu.buffer=250", "needle_fu.max_new_tokens=90"),
    *("needle_magic.lengths=[300,400]", "needle_magic.depths=3", "needle_magic.trials=2"),
    *("multi_needle.lengths=[900,1100]", "multi_needle.needles=[2,3]", "multi_needle.depths=[0,50,100]"),
    *("multi_needle.trials=1", "multi_needle.max_new_tokens=40"),
    *("ancestral_trace.relations=[2,5]", "ancestral_trace.trials=3", "ancestral_trace.max_new_tokens=40"),
    *("multidoc_qa.documents=[3]", "multidoc_qa.positions=[1,3]", "multidoc_qa.questions=5"),
    *("kv_retrieval.keys=[3]", "kv_retrieval.positions=3", "kv_retrieval.examples=4"),
    *("hallucination.examples=3", "hallucination.document_tokens=60", "hallucination.max_new_tokens=120"),
    *("judge.key_variable=MEAP_TEST_KEY", "judge.backoff=0", "judge.input_price=1", "judge.output_price=10"),
    *("attention_decay.lengths=[16,32]", "attention_segments.examples=4", "attention_segments.sentences=2"),
    "commonsense.tasks=[arc_easy,boolq,hellaswag,winogrande]",
)
"""Every task in milliseconds; this tokenizer spells almost byte by byte."""


def sums_over(weights: np.ndarray, asking: tuple[int, int] = (0, 0)) -> Attention:
    """The sums of weights that are all there, as their definitions have them."""
    mean = weights.mean(1)
    later, squares = np.tril(mean, -1), np.tril((weights**2).mean(1), -1)
    queries = np.arange(mean.shape[-1])
    asked = mean[:, slice(*asking)]
    return Attention(
        later_LT=later.sum(1),
        own_LT=np.diagonal(mean, axis1=1, axis2=2),
        relative_LT=(later * (queries + 1)[:, None]).sum(1),
        squares_LT=squares.sum(1),
        last_LT=mean[:, -1],
        asking_LT=asked.mean(1) if asked.size else np.zeros_like(mean[:, 0]),
    )


def uniform_weights(num_tokens: int, *, num_layers: int = 2, num_heads: int = 2) -> np.ndarray:
    """Every query attends to itself and all before it alike."""
    weights = np.tril(np.ones((num_tokens, num_tokens))) / (np.arange(num_tokens) + 1)[:, None]
    return np.broadcast_to(weights, (num_layers, num_heads, num_tokens, num_tokens))


class OracleLM:
    """Knows the answers of examples; tells them as `spell` has it."""

    max_positions = 1 << 20

    def __init__(self, tokenizer: Tokenizer, examples: Iterable[Example], spell: Callable[[str], str]) -> None:
        self._tokenizer = tokenizer
        self._spell = spell
        self.examples = list(examples)
        self._answers = {each.prompt.tobytes(): each.answers[0] for each in self.examples if each.answers}
        self._rights = {each.candidates[each.right].ids.tobytes() for each in self.examples if each.right is not None}
        self.asked: list[bytes] = []

    def loglikelihoods(self, rows):
        self.asked += [row.tobytes() for row in rows]
        return [np.full(len(row) - 1, 0.0 if row.tobytes() in self._rights else -1.0) for row in rows]

    def generate(self, prompts, *, max_new_tokens, stop=""):
        self.asked += [prompt.tobytes() for prompt in prompts]
        texts = [self._spell(self._answers[prompt.tobytes()]) for prompt in prompts]
        return [self._tokenizer.encode(text)[:max_new_tokens] for text in texts]

    def attention(self, readings):
        self.asked += [reading.ids.tobytes() for reading in readings]
        return [sums_over(uniform_weights(len(each.ids)), each.asking) for each in readings]

    def describe(self):
        return {"name": "oracle"}


class BlindLM:
    """Finds every token as likely as any other, and always says the same."""

    max_positions = 1 << 20

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def loglikelihoods(self, rows):
        return [np.full(len(row) - 1, -np.log(self._tokenizer.vocab_size)) for row in rows]

    def generate(self, prompts, *, max_new_tokens, stop=""):
        return [self._tokenizer.encode(" well.\n")[:max_new_tokens] for _ in prompts]

    def attention(self, readings):
        return [sums_over(uniform_weights(len(each.ids)), each.asking) for each in readings]

    def describe(self):
        return {"name": "blind"}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Models this small lose by threads, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="package")
def drawing() -> Iterator[Event]:
    """Runs write PNGs while it is set: these take longer than all else with models this small."""
    asked = Event()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("meap.evals.runner.save_panels", "meap.evals.comparison.save_panels"):
            patch.setattr(name, lambda *what, **how: save_panels(*what, **how) if asked.is_set() else None)
        yield asked


@pytest.fixture
def pictures(drawing) -> Iterator[None]:
    """For tests that look at PNGs."""
    drawing.set()
    yield
    drawing.clear()


@pytest.fixture(scope="session")
def configure(tmp_path_factory) -> Callable[..., EvaluationConfig]:
    prompts = tmp_path_factory.mktemp("choice") / "prompts.jsonl"
    asked = [generate_record_example(5, index, num_sentences=0) for index in range(30)]
    lines = [dataclasses.asdict(each) | {"group": f"{number % 2}"} for number, each in enumerate(asked)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lambda *overrides: load_config(EvaluationConfig, None, [*SMALL, f"choice.source={prompts}", *overrides])


@pytest.fixture(scope="session")
def make_inputs(tokenizer, configure) -> Callable[..., TaskInputs]:
    def make(*overrides: str, num_rows: int = 6) -> TaskInputs:
        rows = np.random.default_rng(0).integers(2, tokenizer.vocab_size - 1, (max(1, num_rows), 33))
        # As from the folder of a model that was trained with it.
        known = dataclasses.replace(tokenizer, is_mask_new=False)
        return TaskInputs(configure(*overrides), known, LazyRows(num_rows, rows.__getitem__) if num_rows else ())

    return make


@pytest.fixture(scope="session")
def attention_of() -> Callable[..., Attention]:
    return sums_over


@pytest.fixture(scope="session")
def uniform() -> Callable[..., np.ndarray]:
    return uniform_weights


@pytest.fixture(scope="session")
def oracle(tokenizer) -> Callable[..., OracleLM]:
    def make(examples: Iterable[Example], spell: Callable[[str], str] = lambda answer: f" {answer}.\nAnd so on"):
        return OracleLM(tokenizer, examples, spell)

    return make


@pytest.fixture(scope="session")
def blind(tokenizer) -> BlindLM:
    return BlindLM(tokenizer)


@pytest.fixture(scope="session")
def commonsense_dir(tmp_path_factory) -> Path:
    """Rows in the columns of the official data sets, by hand."""
    folder = tmp_path_factory.mktemp("commonsense")
    things = ("a stone", "a river", "the old bridge", "an owl", "bread", "the harbour")
    arc = [
        {
            "question": f"What does number {index} like?",
            "choices": {"text": list(things[:4]), "label": ["A", "B", "C", "D"]},
            "answerKey": "ABCD"[index % 4],
        }
        for index in range(12)
    ]
    boolq = [
        {"passage": f"It has {index} legs.", "question": f"does it have {index % 3} legs", "label": int(index < 3)}
        for index in range(8)
    ]
    winogrande = [
        {
            "sentence": f"The {index} cats saw the dogs, and then the _ ran away.",
            "option1": "cats",
            "option2": "dogs",
            "answer": str(1 + index % 2),
        }
        for index in range(8)
    ]
    hellaswag = [
        {
            "activity_label": "Baking",
            "ctx_a": f"Someone takes {index} eggs.",
            "ctx_b": "then",
            "endings": [f"eats {thing}." for thing in things[:4]],
            "label": str(index % 4),
        }
        for index in range(8)
    ]
    for name, rows in (("arc_easy", arc), ("boolq", boolq), ("winogrande", winogrande), ("hellaswag", hellaswag)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def judge_server(monkeypatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("MEAP_TEST_KEY", "sk-secret-of-the-tests")
    server = JudgeServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def articles(tmp_path_factory) -> tuple[str, ...]:
    """Overrides that name three sets of articles, by hand, in own columns, published ones, and parquet."""
    folder = tmp_path_factory.mktemp("articles")
    texts = [
        (f"The {kind} number {index} stood by the harbour. " * 3, f"A {kind} {index} by the sea.")
        for index in range(6)
        for kind in ("boat", "bridge", "tower")
    ]
    xsum = [{"id": f"x{index}", "document": one, "reference": two} for index, (one, two) in enumerate(texts[::3])]
    multi_news = [{"document": one, "summary": two} for one, two in texts[1::3]]
    for name, rows in (("xsum", xsum), ("multi_news", multi_news)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wikisum = [{"title": str(index), "article": one, "summary": two} for index, (one, two) in enumerate(texts[2::3])]
    pq.write_table(pa.Table.from_pylist(wikisum), folder / "wikisum.parquet")
    sources = {"xsum": "xsum.jsonl", "multi_news": "multi_news.jsonl", "wikisum": "wikisum.parquet"}
    return tuple(f"hallucination.{name}={folder / source}" for name, source in sources.items())


@pytest.fixture(scope="session")
def llama(tokenizer) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def lm(llama, tokenizer) -> HuggingFaceLM:
    return HuggingFaceLM(llama, tokenizer, name="small", batch_size=3)
