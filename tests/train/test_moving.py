"""Data may move, and runs may: rows are known by what they are, and a run holds all that its use takes."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from meap.checkpoints.trust import load_checkpoint
from meap.config import RecipeConfig, load_config
from meap.errors import CheckpointError, MismatchError
from meap.tokenizer import Tokenizer

from .conftest import losses

ROOT = Path(__file__).resolve().parents[2]
FLAT = ("scheduler.warmup_ratio=0", "scheduler.final_ratio=0.999999999")
KEYS = {"AWS_ACCESS_KEY_ID": "testkeyid", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def here(tmp_path, monkeypatch, remote) -> Path:
    """The working directory, with data at out/a."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(remote, "out/a")
    return tmp_path


@pytest.fixture
def to_store(server, bucket, monkeypatch) -> Callable[[Path], str]:
    """Copy a data set to S3."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL", "S3_ENDPOINT_URL"):
        monkeypatch.setenv(name, server)

    def copy(folder: Path) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                bucket.upload_file(str(path), f"{folder.name}/{path.relative_to(folder)}")
        return f"s3://corpus/{folder.name}"

    return copy


@pytest.fixture
def carry_on(small_config, release_caches) -> Callable[..., None]:
    """Run the recipe where nothing but checkpoints is left of earlier starts."""
    main = runpy.run_path(str(ROOT / "recipes/meap_1b.py"))["main"]

    def run(run_dir: Path, *overrides: str) -> None:
        main(small_config(run_dir, *overrides))
        release_caches()

    return run


@pytest.fixture
def export() -> Callable[..., Path]:
    """Run the recipe of the export; returns the folder it wrote."""
    main = runpy.run_path(str(ROOT / "recipes/export_hf.py"))["main"]

    def run(*overrides: str) -> Path:
        config = load_config(RecipeConfig, None, overrides)
        main(config)
        return Path(config.export.out_dir)

    return run


def is_of(folder: Path, checkpoint: Path, tokenizer: Tokenizer) -> bool:
    """Whether an exported folder has a checkpoint's weights and the tokenizer."""
    weights = load_checkpoint(str(checkpoint))["state"]["model"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    record = json.loads((folder / "meap_export.json").read_text())
    return record["tokenizer_fingerprint"] == tokenizer.fingerprint and all(
        torch.equal(weights[f"model.{name}"], weight) for name, weight in model.state_dict().items()
    )


# --- data moves ---


@pytest.mark.slow
def test_a_run_continues_wherever_its_data_is_found(train, here, remote, to_store, capsys):
    whole = train(here / "whole", "train.max_duration=6ba", *FLAT)
    (here / "link").symlink_to(here / "out/a")
    places = ["out/a", f"{here}/out/a/", "link", f"file://{here}/out/a", to_store(remote), "./b"]
    for step, place in enumerate(places, start=1):
        if place == "./b":
            shutil.copytree("out/a", "b")
            shutil.rmtree("out")
        capsys.readouterr()
        history = train(here / "run", f"train.max_duration={step}ba", f"data.remote={place}", *FLAT)
        lines = [line for line in capsys.readouterr().out.splitlines() if "data.remote" in line]
        if step == 1:
            assert lines == []
        else:
            was = f"with data.remote={place} (was {places[step - 2]}), same rows"
            assert lines == [f"continuing {here}/run/checkpoints/ba{step - 1}.pt {was}"]
    assert history == pytest.approx(whole, abs=1e-6)
    starts = [json.loads(line) for line in (here / "run/starts.jsonl").read_text().splitlines()]
    assert [start["data"]["data.remote"] for start in starts][-1] == "./b"
    copy, original = (here / "run/data/train/manifest.json"), remote / "train/manifest.json"
    assert json.loads(copy.read_text()) == json.loads(original.read_text())


@pytest.mark.slow
def test_streams_keep_their_names_and_may_move(train, here, write_shards, capsys):
    write_shards(here / "code", rows=16, seq_len=16, validation_rows=0, seed=1)
    mixed = ("data.streams.web.proportion=1", "data.streams.code.proportion=1", *FLAT)
    first = (*mixed, "data.streams.web.remote=out/a", "data.streams.code.remote=code")
    whole = train(here / "whole", "train.max_duration=6ba", *first)
    train(here / "run", "train.max_duration=3ba", *first)
    shutil.move("out/a", "web")
    shutil.move("code", "out/code")
    moved = (*mixed, "data.streams.web.remote=web", "data.streams.code.remote=out/code", "data.remote=not/read")
    capsys.readouterr()
    assert train(here / "run", "train.max_duration=6ba", *moved) == pytest.approx(whole, abs=1e-6)
    lines = [line for line in capsys.readouterr().out.splitlines() if "same rows" in line]
    assert sorted(line.partition(" with ")[2] for line in lines) == [
        "data.streams.code.remote=out/code (was code), same rows",
        "data.streams.web.remote=web (was out/a), same rows",
    ]


@pytest.mark.fault(8)
def test_streams_that_changed_places_are_other_rows(train, here, write_shards):
    write_shards(here / "code", rows=16, seq_len=16, validation_rows=0, seed=1)
    train(here / "run", "train.max_duration=1ba", "data.streams.a.remote=out/a", "data.streams.b.remote=code")
    with pytest.raises(
        MismatchError,
        match=r"ba1.pt has been trained on 64 rows in .* \(sha256 .{12}\) of data.streams.a.remote, which now holds 16 "
        r"rows in .* \(sha256 .{12}\): give the same data, wherever it is now, or give this run another run.name",
    ):
        train(here / "run", "train.max_duration=2ba", "data.streams.a.remote=code", "data.streams.b.remote=out/a")


@pytest.mark.fault(8)
def test_a_tokenizer_is_known_by_what_it_is_not_by_where(train, here, tokenizer, capsys):
    train(here / "run", "train.max_duration=1ba", "data.remote=out/a")
    shutil.copytree("out/a/tokenizer", "mine")
    train(here / "run", "train.max_duration=2ba", "data.remote=out/a", "tokenizer.name=mine")
    assert "with tokenizer.name=mine (was None)" in capsys.readouterr().out
    tokenizer.save(here / "other", with_mask=False)
    with pytest.raises(MismatchError, match=r"tokenizer 'other' is not the one .* was made with \(fingerprint sha256"):
        train(
            here / "run",
            *("train.max_duration=3ba", "data.remote=out/a", "tokenizer.name=other", "tokenizer.eos_token=<s>"),
        )


@pytest.mark.slow
def test_how_attention_and_masks_are_computed_may_change_within_a_run(train, here, capsys):
    whole = train(here / "whole", "train.max_duration=5ba", *FLAT)
    train(here / "run", "train.max_duration=3ba", *FLAT)
    capsys.readouterr()
    changed = ("model.attention=sdpa", "model.kernels=torch", "masking.site=algorithm")
    assert train(here / "run", "train.max_duration=5ba", *FLAT, *changed) == pytest.approx(whole, abs=1e-6)
    printed = capsys.readouterr().out
    for change, was in zip(changed, ("auto", "auto", "dataset"), strict=True):
        assert f"/run/checkpoints/ba3.pt with {change} (was {was})\n" in printed


# --- a run is self-contained ---


@pytest.fixture
def run(train, here) -> Path:
    """A finished run whose data is gone."""
    train(here / "run", "train.max_duration=4ba", "data.remote=out/a")
    shutil.rmtree("out")
    return here / "run"


@pytest.mark.slow
def test_a_run_is_exported_without_its_data_also_when_it_was_moved(run, export, tokenizer, monkeypatch, tmp_path):
    assert is_of(export(f"run.dir={run}", "tokenizer.name=not/there"), run / "checkpoints/ba4.pt", tokenizer)
    moved = tmp_path / "elsewhere/y"
    moved.parent.mkdir()
    run.rename(moved)
    monkeypatch.chdir("/")
    assert is_of(export(f"run.dir={moved}"), moved / "checkpoints/ba4.pt", tokenizer)
    left = moved.with_name("left")
    (moved / "checkpoints").rename(left)
    shutil.rmtree(moved)
    for number, place in enumerate([f"checkpoint.folder={left}", f"export.checkpoint={left}/ba4.pt"]):
        out_dir = export(place, f"export.out_dir={tmp_path}/hf{number}", "data.remote=not/there")
        assert is_of(out_dir, left / "ba4.pt", tokenizer)
    without = export(f"checkpoint.folder={left}", f"export.out_dir={tmp_path}/plain", "export.keep_mask=false")
    assert json.loads((without / "meap_export.json").read_text())["mask_token"] is None


@pytest.mark.slow
def test_a_moved_run_continues(train, carry_on, here, capsys):
    whole = train(here / "whole", "train.max_duration=6ba", *FLAT)
    train(here / "run", "train.max_duration=3ba", "data.remote=out/a", *FLAT)
    (here / "elsewhere").mkdir()
    (here / "run").rename(here / "elsewhere/y")
    (here / "out/a").rename(here / "a")
    again = ("train.max_duration=6ba", "data.remote=a", *FLAT)
    assert train(here / "elsewhere/y", *again) == pytest.approx(whole, abs=1e-6)
    # Of another copy only checkpoints are left.
    (here / "elsewhere/y/checkpoints/ba6.json").unlink()
    shutil.copytree(here / "elsewhere/y/checkpoints", here / "third/checkpoints")
    carry_on(here / "third", *again)
    assert "third/checkpoints/ba4.pt, step 4" in capsys.readouterr().out
    assert losses(here / "third", first=5) == pytest.approx(whole[4:], abs=1e-6)
    assert (here / "third/data/train/manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.fault(9)
@pytest.mark.parametrize("damage", ["missing", "cut", "another"])
def test_a_tokenizer_that_is_lost_is_named_and_can_be_given(run, export, tokenizer, tmp_path, damage):
    stored = run / "checkpoints/tokenizer/tokenizer.json"
    content = stored.read_bytes()
    stored.unlink() if damage == "missing" else stored.write_bytes(content[:-9] if damage == "cut" else b" " + content)
    what = "is missing" if damage == "missing" else "does not have the size and hash that were recorded"
    with pytest.raises(
        CheckpointError,
        match=rf"the tokenizer of checkpoint .*ba4.pt is missing or damaged \(tokenizer/tokenizer.json {what}\): copy "
        r"tokenizer/ from the run's folder of checkpoints, or give the same one by tokenizer.name=",
    ):
        export(f"run.dir={run}")
    tokenizer.save(tmp_path / "kept")
    assert is_of(export(f"run.dir={run}", f"tokenizer.name={tmp_path}/kept"), run / "checkpoints/ba4.pt", tokenizer)
    definition = json.loads((tmp_path / "kept/tokenizer.json").read_text())
    definition["pre_tokenizer"]["use_regex"] = False
    (tmp_path / "kept/tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(MismatchError, match=r"kept' is not the one checkpoint .*ba4.pt was made with \(fingerprint"):
        export(f"run.dir={run}", f"tokenizer.name={tmp_path}/kept")


@pytest.mark.slow
def test_a_bucket_of_checkpoints_is_all_it_takes(train, carry_on, here, to_store, export, tokenizer, capsys):
    data = to_store(here / "out/a")
    saved = ("checkpoint.folder=s3://corpus/saved", f"data.remote={data}")
    train(here / "run", "train.max_duration=2ba", *saved)
    shutil.move("run", "kept")
    carry_on(here / "other", "train.max_duration=4ba", *saved)  # a machine that has never seen the run
    assert "resumes    from s3://corpus/saved/ba2.pt, step 2" in capsys.readouterr().out
    newest = here / "other/checkpoints/ba4.pt"
    shutil.rmtree("out")
    exported = export("checkpoint.folder=s3://corpus/saved", "export.out_dir=hf", f"data.remote={here}/not/there")
    assert is_of(exported, newest, tokenizer)


@pytest.mark.slow
def test_a_base_is_needed_at_the_first_start_only(train, run, export, tokenizer, remote, capsys):
    """Of a chain of runs each stands for itself: its base may be gone when it is continued, exported, or a base."""
    second, third = run.with_name("second"), run.with_name("third")
    mine = (f"data.remote={remote}", f"model.base={run}", *FLAT)
    whole = train(second.with_name("whole"), "train.max_duration=4ba", *mine)
    train(second, "train.max_duration=2ba", *mine)
    shutil.rmtree(run)
    assert train(second, "train.max_duration=4ba", *mine) == pytest.approx(whole, abs=1e-6)
    train(third, "train.max_duration=1ba", f"data.remote={remote}", f"model.base={second}/checkpoints")
    assert f"base       {second}/checkpoints/ba4.pt\n" in capsys.readouterr().out
    shutil.rmtree(second)
    assert is_of(export(f"run.dir={third}"), third / "checkpoints/ba1.pt", tokenizer)
    plain = export(f"run.dir={third}", f"export.out_dir={third}/plain", "export.keep_mask=false")
    assert AutoModelForCausalLM.from_pretrained(plain).config.vocab_size == 320
