"""The entry point, on shards and an exported model."""

import importlib.util
import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meap.config import EvaluationConfig, RecipeConfig, load_config
from meap.errors import CheckpointError, ConfigError, DataError, MeapError


@pytest.fixture(scope="module")
def recipe(project_root):
    spec = importlib.util.spec_from_file_location("evaluate_recipe", project_root / "recipes" / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def main(recipe):
    return recipe.main


@pytest.fixture
def folder(tmp_path, monkeypatch, llama, tokenizer, write_shards):
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "mds", seq_len=16)
    # This tokenizer spells almost byte by byte: the prompts need more positions than the model was made with.
    llama.save_pretrained(tmp_path / "hf")
    stored = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(stored | {"max_position_embeddings": 2048}))
    tokenizer.save(tmp_path / "hf")
    return tmp_path


SMALL = (
    *("model=hf", "tasks=perplexity,key_retrieval", "perplexity.remote=[mds]", "perplexity.rows=20"),
    *("key_retrieval.examples=6", "key_retrieval.sentences=1"),
)


def configure(*overrides):
    return load_config(EvaluationConfig, None, [*SMALL, *overrides])


def results(folder="runs/eval/hf"):
    return json.loads(Path(folder, "results.json").read_text())


def test_tasks_run_on_an_exported_model(main, folder, capsys):
    main(configure())
    found = results()
    assert found["tasks"]["perplexity"]["n"] == 20
    assert found["tasks"]["perplexity"]["num_tokens"] == 20 * 16
    assert found["tasks"]["key_retrieval"]["n"] == 6
    assert (found["skipped"], found["export"], found["data"]) == ({}, None, "0: mds")
    printed = capsys.readouterr().out
    assert "Key retrieval (key_retrieval): ranking, %, chance 25.0" in printed
    assert "written     runs/eval/hf" in printed
    assert "<h2>Key retrieval</h2>" in Path("runs/eval/hf/report.html").read_text()


def test_held_out_rows_of_all_places_are_scored(main, folder, write_shards):
    for name, rows in (("a", 12), ("b", 4), ("c", 0)):
        write_shards(Path(name), seq_len=16, validation_rows=rows, seed=ord(name))
    main(configure("tasks=perplexity", "perplexity.rows=0", "perplexity.remote=[a,b,c]", "out_dir=out"))
    assert results("out")["tasks"]["perplexity"]["n"] == 16
    assert results("out")["data"] == "0: a, 1: b"


def test_rows_of_another_tokenizer_are_not_scored(main, folder, capsys):
    definition = json.loads((folder / "hf" / "tokenizer.json").read_text())
    definition["pre_tokenizer"]["use_regex"] = False
    (folder / "hf" / "tokenizer.json").write_text(json.dumps(definition))
    main(configure())
    assert set(results()["tasks"]) == {"key_retrieval"}
    assert "no held-out rows of the model's tokenizer" in results()["skipped"]["perplexity"]
    assert "skipped perplexity: " in capsys.readouterr().out


def test_without_the_data_all_but_held_out_loss_is_measured(main, folder, capsys):
    main(configure("perplexity.remote=[gone/mds]"))
    assert set(results()["tasks"]) == {"key_retrieval"}
    why = r"perplexity.remote=gone/mds \(in .*\) is not there: run dataprep"
    assert re.match(why, results()["skipped"]["perplexity"])
    assert re.search(f"skipped perplexity: {why}", capsys.readouterr().out)
    with pytest.raises(DataError, match=f"would measure nothing .perplexity: {why}"):
        main(configure("perplexity.remote=[gone/mds]", "tasks=perplexity"))


def test_two_evaluations_are_compared(main, folder, capsys, pictures):
    main(configure("tasks=key_retrieval"))
    main(load_config(EvaluationConfig, None, ["compare=runs/eval/hf,runs/eval/hf"]))
    assert "difference" in capsys.readouterr().out
    assert Path("runs/eval/compare/compare.png").is_file()
    assert "<h2>Key retrieval</h2>" in Path("runs/eval/compare/report.html").read_text()


@pytest.fixture
def start(project_root, quiet_environment):
    """Start the recipe in a process of its own."""

    def start(environment, **streams):
        environment = quiet_environment | {"PYTHONPATH": str(project_root)} | environment
        command = [sys.executable, str(project_root / "recipes" / "evaluate.py"), *SMALL]
        return subprocess.Popen(command, env=environment, **streams)

    return start


@pytest.mark.slow
def test_two_ranks_share_the_work(main, folder, project_root, warm_python, quiet_environment):
    """As a launcher starts them: both load the model, one writes the results, which are those of one process."""
    command = [warm_python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = quiet_environment | {"PYTHONPATH": str(project_root), "PYTHON_EXEC": warm_python}
    recipe = str(project_root / "recipes" / "evaluate.py")
    subprocess.run([*command, recipe, *SMALL], env=environment, check=True, capture_output=True, timeout=300)
    shared = results()["tasks"]
    assert not Path("runs/eval/hf/unfinished").exists()
    main(configure("out_dir=alone"))
    alone = results("alone")["tasks"]
    for name in ("perplexity", "key_retrieval"):
        assert shared[name]["prompts_sha256"] == alone[name]["prompts_sha256"]
        both = [numbers[name]["metrics"][numbers[name]["headline"]]["value"] for numbers in (shared, alone)]
        assert both[0] == pytest.approx(both[1], rel=1e-5)


def test_a_run_stands_for_its_export(recipe, main, folder):
    run = folder / "runs" / "tw"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=r"runs/tw is a run that has not been exported: run `python .*dir=runs/tw`"):
        recipe.check(configure("model=runs/tw"))
    shutil.copytree("hf", run / "hf")
    (run / "hf" / "meap_export.json").write_text(json.dumps({"source": {"run": "tw"}}))
    recipe.check(configure("model=runs/tw/"))
    main(configure("model=runs/tw/", "tasks=key_retrieval"))
    assert results("runs/tw/eval")["model"]["name"] == "runs/tw/hf"
    main(configure("model=runs/tw/hf"))
    assert set(results("runs/tw/eval")["tasks"]) == {"perplexity", "key_retrieval"}


def test_a_rehearsal_names_the_results_that_would_be_replaced(recipe, main, folder, capsys):
    main(configure("tasks=key_retrieval", "out_dir=out"))
    recipe.dry_run(configure("out_dir=out"))
    assert "warning" not in capsys.readouterr().err
    shutil.copytree("hf", "other")
    recipe.dry_run(configure("out_dir=out", "model=other"))
    assert "warning: out holds results of hf (tasks key_retrieval), which will be replaced" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"model_type": "llama", "max_position_embeddings": 8}, "6 of 6 examples exceed the 8 tokens"),
        ({"model_type": "gpt2", "n_positions": 8}, "6 of 6 examples exceed the 8 tokens"),
        ({"model_type": "mpt", "max_seq_len": 8}, "6 of 6 examples exceed the 8 tokens"),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 8}}, "6 of 6 examples exceed the 8"),
        (
            {"model_type": "llama", "max_position_embeddings": 0},
            r"a context of 0 tokens \(max_position_emb.*: restore it",
        ),
        (
            {"model_type": "llama", "max_position_embeddings": "abc"},
            "its config.json cannot be used .*abc.*: restore it",
        ),
        ({"model_type": "nobody"}, "its config.json cannot be used .*nobody.*: restore it, or check the name"),
    ],
)
def test_a_rehearsal_reads_the_context_that_a_model_states(recipe, folder, stated, said):
    shutil.copytree("hf", "stated")
    (Path("stated") / "config.json").write_text(json.dumps(stated))
    with pytest.raises(MeapError, match=said):
        recipe.dry_run(configure("model=stated", "tasks=key_retrieval"))


def test_a_rehearsal_of_no_model_names_the_model(recipe, folder):
    with pytest.raises(CheckpointError, match="^model=nowhere: there is no such folder"):
        recipe.dry_run(configure("model=nowhere", "tasks=key_retrieval"))


@pytest.mark.slow
def test_what_needs_no_download_fits_the_context_of_1b_yaml(recipe, project_root, shared_data, tmp_path, capsys):
    """The rows of perplexity and attention_decay are as long as training's, and not given here."""
    model = tmp_path / "model"
    shutil.copytree(shared_data / "tokenizers/llama2", model)
    context = load_config(RecipeConfig, project_root / "yamls/1b.yaml").data.seq_len
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": context}))
    recipe.dry_run(load_config(EvaluationConfig, project_root / "yamls/eval_4k.yaml", [f"model={model}"]))
    told = capsys.readouterr().out
    assert told.count(" examples, ") == 8
    assert "exceed" not in told


@pytest.mark.slow
def test_an_evaluation_that_may_open_no_more_files_leaves_no_folder_behind(folder, start):
    temporary = folder / "temporary"
    temporary.mkdir()
    short = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))}
    done = start({"TMPDIR": str(temporary)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **short)
    _, told = done.communicate(timeout=120)
    assert "too many open files" in told.lower()
    assert not list(temporary.glob("meap-*"))


@pytest.mark.slow
def test_an_evaluation_goes_on_where_its_reader_does_not(folder, start):
    evaluation = start({}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    evaluation.stdout.readline()
    evaluation.stdout.close()
    assert evaluation.wait(timeout=120) == 0
    assert set(results()["tasks"]) == {"perplexity", "key_retrieval"}
    assert Path("runs/eval/hf/report.html").is_file()


def test_unknown_tasks_are_found_out_at_once(main, folder):
    with pytest.raises(ConfigError, match="tasks=nothing: there is no 'nothing'"):
        main(configure("tasks=nothing", "model=none"))
