"""From conversations of one's own to a tuned model, by the README's commands."""

import shutil
import signal

import pytest

from .conftest import Home, write_gzip
from .settings import FINE_TUNING, PRE_TRAINING, SEQ_LEN, write_yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def with_base(home: Home, own_texts, write_own_tokenizer) -> Home:
    """A model to tune, in four steps."""
    write_own_tokenizer(home.path / "my-tokenizer")
    write_gzip(home.path / "crawl/0.jsonl.gz", [{"text": text} for text in own_texts])
    home.run(
        "python dataprep/c4_to_mds.py source='crawl/*.jsonl.gz' tokenizer.name=my-tokenizer remote=data/crawl/mds "
        f"seq_len={2 * SEQ_LEN}"
    )
    write_yaml(home.path / "own.yaml", PRE_TRAINING | {"data": {"remote": "data/crawl/mds", "seq_len": 2 * SEQ_LEN}})
    home.run("python recipes/meap_1b.py own.yaml train.max_duration=4ba")
    home.run("python recipes/export_hf.py own.yaml")
    return home


def test_a_model_is_tuned_stopped_moved_resumed_and_exported(with_base: Home, own_texts):
    home = with_base
    sentences = [line.strip() for text in own_texts for line in text.split(". ") if 150 < len(line) < 260][:160]
    chats = [{"instruction": f"Say number {number}.", "output": text} for number, text in enumerate(sentences)]
    write_gzip(home.path / "chats/0.jsonl.gz", chats)
    prepare = "python dataprep/sft_to_mds.py source='chats/*.jsonl.gz' tokenizer.name=runs/own/hf remote=data/chats/mds"
    assert "complete: " in home.run(f"{prepare} max_length={SEQ_LEN}")

    write_yaml(home.path / "tuned.yaml", FINE_TUNING)
    home.run("python recipes/meap_sft.py tuned.yaml --dry-run")
    run = home.start("python recipes/meap_sft.py tuned.yaml")
    run.wait_for("step      4/")
    run.interrupt(signal.SIGTERM)
    assert "everything is saved; run the same command again to resume" in run.end(75)
    shutil.move(home.path / "data/chats", home.path / "moved")
    printed = home.run("composer -n 2 recipes/meap_sft.py tuned.yaml data.remote=moved/mds")
    assert "same rows" in printed
    assert "heldout loss" in printed

    shutil.rmtree(home.path / "moved")
    assert "written     runs/tuned/hf" in home.run("python recipes/export_hf.py tuned.yaml")
