"""What preparing fine-tuning data costs, as ratios against named peers in the same process.

    python benchmarks/sft_prep.py [folder or hub name of a tokenizer]

Encodes and marks 20,000 made-up conversations in Alpaca's format, and 2,000 chats of six answers, in three ways: ours,
a loop over transformers' `apply_chat_template(return_assistant_tokens_mask=True)`, and the rendered texts' encoding
alone (the floor: no marks, one batch). All three give the same ids, which is checked first. Then the whole command's
steps from a file to shards. Medians of interleaved repetitions, by the clock and by processor time: ours encodes on
every core, the loop on one. Without an argument, the tokenizer of the built-in sample.
"""

import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPETITIONS = 3
RECORDS, CHATS, TURNS, BATCH = 20_000, 2_000, 6, 256
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '### Instruction:\n' + message['content'] + '\n\n### Response:\n' }}{% else %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    from meap.config import TokenizerConfig
    from meap.prep.sample import train_sample_tokenizer, write_sample_corpus
    from meap.tokenizer import load_tokenizer

    with tempfile.TemporaryDirectory(prefix="meap-benchmark-") as name:
        folder = Path(name)
        tokenizer_name = (
            arguments[0] if arguments else str(train_sample_tokenizer(write_sample_corpus(folder / "c"), folder / "t"))
        )
        tokenizer = load_tokenizer(TokenizerConfig(name=tokenizer_name))
        print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {tokenizer_name}\n")
        rng = random.Random(0)  # noqa: S311
        words = _words()
        records = [_record(rng, words) for _ in range(RECORDS)]
        singles = [_chat([record]) for record in records]
        chats = [_chat([_record(rng, words) for _ in range(TURNS)]) for _ in range(CHATS)]
        report(f"{RECORDS:,} records of one answer", encoding(tokenizer, singles), len(singles))
        report(f"{CHATS:,} chats of {TURNS} answers", encoding(tokenizer, chats), len(chats))
        whole_command(folder, tokenizer_name, records)
    return 0


def encoding(tokenizer: Any, chats: list[list[dict[str, str]]]) -> dict[str, Callable[[], int]]:
    """Ways to encode and mark; each returns how many tokens are answers, or all tokens where it does not mark."""
    from transformers import PreTrainedTokenizerFast

    from meap.prep.sft.messages import RecordError
    from meap.prep.sft.rendering import ChatTemplate

    template = ChatTemplate(tokenizer, "tokenizer", TEMPLATE)
    stock = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.plain,
        chat_template=TEMPLATE,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
    )
    texts = [stock.apply_chat_template(chat, tokenize=False) for chat in chats]

    def ours() -> int:
        marked = 0
        for start in range(0, len(chats), BATCH):
            for rendered in template.render_batch([(chat, None) for chat in chats[start : start + BATCH]]):
                assert not isinstance(rendered, RecordError)
                marked += int((rendered.flags & 1).sum())
        return marked

    def transformers_loop() -> int:
        marked = 0
        for chat in chats:
            encoded: Any = stock.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
            marked += sum(encoded["assistant_masks"])
        return marked

    def floor() -> int:
        batches = (tokenizer.encode_batch(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH))
        return sum(len(tokens) for batch in batches for tokens in batch)

    for chat in chats[:50]:
        assert template.render(chat).tokens.tolist() == stock.apply_chat_template(chat)
    return {"ours": ours, "apply_chat_template, one by one": transformers_loop, "encoding alone (floor)": floor}


def whole_command(folder: Path, tokenizer_name: str, records: list[dict[str, str]]) -> None:
    """Time `dataprep/sft_to_mds.py` from a JSON file to shards, and print its own summary."""
    import runpy

    from meap.config import SftPrepConfig, load_config

    (folder / "records.json").write_text(json.dumps(records), encoding="utf-8")
    print(f"the whole command, {RECORDS:,} records")
    prepare = runpy.run_path(str(Path(__file__).parent.parent / "dataprep" / "sft_to_mds.py"))["prepare"]
    overrides = (f"source={folder}/records.json", f"remote={folder}/mds", f"tokenizer.name={tokenizer_name}")
    started = time.perf_counter()
    prepare(load_config(SftPrepConfig, None, list(overrides)))
    seconds = time.perf_counter() - started
    megabytes = (folder / "records.json").stat().st_size / 1e6
    print(f"  {seconds:.1f} s, {RECORDS / seconds:,.0f} conversations/s, {megabytes / seconds:.2f} MB of JSON/s")


def _words() -> list[str]:
    from meap.synthetic import generate_document

    return " ".join(generate_document(0, index).text for index in range(400)).split()


def _record(rng: random.Random, words: list[str]) -> dict[str, str]:
    """As long as Alpaca's: an instruction of about 10 words, an input for two in five, an answer of about 45."""

    def text(least: int, most: int) -> str:
        start, count = rng.randrange(len(words) - most), rng.randint(least, most)
        return " ".join(words[start : start + count])

    return {
        "instruction": text(5, 16),
        "input": text(3, 20) if rng.random() < 0.4 else "",
        "output": text(2, 90),
    }


def _chat(records: list[dict[str, str]]) -> list[dict[str, str]]:
    chat: list[dict[str, str]] = []
    for record in records:
        chat.append({"role": "user", "content": f"{record['instruction']} {record['input']}".strip()})
        chat.append({"role": "assistant", "content": record["output"]})
    return chat


def report(title: str, ways: dict[str, Callable[[], int]], count: int) -> None:
    """Time all ways in turn and print medians and ratios to the first."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    found: dict[str, int] = {}
    for _ in range(REPETITIONS):
        for name, run in ways.items():
            started, busy = time.perf_counter(), time.process_time()
            found[name] = run()
            seconds[name].append((time.perf_counter() - started, time.process_time() - busy))
    ours, theirs, _ = found.values()
    assert ours == theirs, f"the ways mark different tokens: {found}"
    medians = {
        name: [statistics.median(each) for each in zip(*values, strict=True)] for name, values in seconds.items()
    }
    clock, processor = next(iter(medians.values()))
    print(title)
    for name, (seconds_passed, seconds_busy) in medians.items():
        print(
            f"  {name:<34}{count / seconds_passed:>8,.0f} conversations/s, {seconds_busy / count * 1e6:>6,.0f} us of a "
            f"core each   speed of ours / this {seconds_passed / clock:.2f} (per core {seconds_busy / processor:.2f})"
        )
    print()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
