"""What is typed is the value: for every kind of key, on the command line, in a yaml, and read back from a record."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meap.config import (
    EvaluationConfig,
    HaystackConfig,
    PerplexityConfig,
    PrepConfig,
    RecipeConfig,
    from_values,
    load_config,
    load_resolved,
    save_config,
    to_values,
)
from meap.config.checks import require_writable_folder
from meap.config.executors import SlurmConfig
from meap.config.loading import read_yaml
from meap.errors import ConfigError

LOOKS_LIKE_SOMETHING_ELSE = [
    *("001", "0012", "0o17", "0x10", "1e3", "1234567e8", "1_000", "12:30:00", "1.50", "+1", ".5", ".inf", ".nan", "-0"),
    *("yes", "no", "on", "off", "y", "True", "false", "null", "Null", "NULL", "~", "None", "2024-01-01", "=", "<<"),
    *(
        "[MASK]",
        "[a, b]",
        "{x}",
        "{a: b}",
        "a: b",
        "a #x",
        "a, b",
        "- a",
        "?",
        "it's",
        '"a" or "b"',
        "*.gz",
        "&x",
        "!x",
    ),
    *("@x", "`x`", "%x", "|", ">", "ünï", "日本", "🙂", "a\tb", "$x", "{$x}", "a=b", "x y"),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(LOOKS_LIKE_SOMETHING_ELSE)


def typed(*overrides: str) -> RecipeConfig:
    return load_config(RecipeConfig, None, overrides)


@pytest.mark.parametrize("text", [*LOOKS_LIKE_SOMETHING_ELSE, "#x", " x ", "a: ", "'", "[", "{"])
def test_text_on_the_command_line_is_the_value(text: str):
    assert typed(f"loggers.wandb_project={text}").loggers.wandb_project == text
    assert typed(f"data.streams.a.remote={text}").data.streams["a"].remote == text
    assert load_config(PrepConfig, None, [f"slurm.sbatch_args.a={text}"]).slurm.sbatch_args == {"a": text}
    if text not in {"null", "~"}:
        assert typed(f"tokenizer.bos_token={text}").tokenizer.bos_token == text
    assert typed(f"tokenizer.bos_token='{text.replace(chr(39), chr(39) * 2)}'").tokenizer.bos_token == text


@pytest.mark.parametrize(
    "text", ["001", "1e3", "yes", "0012", "0x10", "2024-01-01", "12:30:00", "[MASK]", "[a, b]", "{x}", "1_000", ".inf"]
)
def test_text_in_a_yaml_is_the_value(tmp_path: Path, text: str):
    path = tmp_path / "x.yaml"
    path.write_text(
        f"tokenizer: {{mask_token: {text}, eos_token: {text}}}\nrun:\n  name: {text}   # a comment\n"
        f"data:\n  streams:\n    a:\n      remote: {text}\n"
    )
    config = load_config(RecipeConfig, path)
    assert config.tokenizer.mask_token == config.tokenizer.eos_token == config.data.streams["a"].remote == text
    assert (config.run.name, config.run.dir) == (text, f"runs/{text}")


def test_lists_hold_what_is_typed(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("perplexity:\n  remote: [001, yes, null]\ncommonsense:\n  tasks:\n  - 1e3\n  - [MASK]\n")
    config = load_config(EvaluationConfig, path)
    assert (config.perplexity.remote, config.commonsense.tasks) == (("001", "yes", "null"), ("1e3", "[MASK]"))

    def remote(value: str) -> tuple[str, ...]:
        return load_config(EvaluationConfig, None, [f"perplexity.remote={value}"]).perplexity.remote

    assert remote("[]") == remote("[ ]") == ()
    assert remote("[001, a: b,#x,{y},a[0],]") == ("001", "a: b", "#x", "{y}", "a[0]")
    assert remote("""['a,b', "c\\td", it's, '']""") == ("a,b", "c\td", "it's", "")
    assert load_config(EvaluationConfig, None, ["needle_fu.lengths=[1_000, 2000]"]).needle_fu.lengths == (1000, 2000)
    assert typed("optimizer.betas=[0,9e-1]").optimizer.betas == (0.0, 0.9)


@pytest.mark.parametrize("value", ["", "null", "~"])
def test_nothing_unsets_what_may_be_unset_and_quotes_make_it_text(tmp_path: Path, value: str):
    path = tmp_path / "x.yaml"
    path.write_text(f"tokenizer:\n  name: {value}\n  eos_token: '{value}'\ndata:\n  predownload: {value}\n")
    config = load_config(RecipeConfig, path, ["model.base=x", f"model.base={value}", f"tokenizer.bos_token='{value}'"])
    assert config.tokenizer.name is config.data.predownload is config.model.base is None
    assert config.tokenizer.eos_token == config.tokenizer.bos_token == value


@pytest.mark.parametrize(
    ("override", "value"),
    [("train.global_batch_size=1_024", 1024), ("train.global_batch_size=0016", 16), ("run.seed= 3 ", 3)],
)
def test_whole_numbers(override: str, value: int):
    config = typed(override)
    assert value in (config.train.global_batch_size, config.run.seed)


def test_numbers_and_truth_go_by_the_type_of_the_key(tmp_path: Path):
    for text, value in {"1e-3": 0.001, "4.0e-4": 0.0004, "1": 1.0, ".5": 0.5, "1_000.5": 1000.5, "1E+2": 100.0}.items():
        path = tmp_path / "x.yaml"
        path.write_text(f"optimizer: {{lr: {text}}}\n")
        assert load_config(RecipeConfig, path).optimizer.lr == typed(f"optimizer.lr={text}").optimizer.lr == value
    for text in ("true", "True", "yes", "on"):
        assert typed(f"data.keep_zip={text}").data.keep_zip is True
    for text in ("false", "no", "OFF"):
        assert typed(f"data.shuffle={text}").data.shuffle is False
    assert typed("train.compile=false").train.compile == "false"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("masking.ratio=15%", "masking.ratio=15% is not a number: write 0.15"),
        ("masking.ratio=0,2", "masking.ratio=0,2 is not a number: write 0.2, with a point"),
        ("masking.ratio=15", r"masking.ratio=15.0 is out of range: .* Write 0.15 for 15 %."),
        ("masking.ratio=[0.1]", r"masking.ratio=\[0.1\] is not a number"),
        ("train.global_batch_size=8.5", "train.global_batch_size=8.5 is not a whole number: write 8, say"),
        ("train.global_batch_size=1e3", "train.global_batch_size=1e3 is not a whole number: write 1000"),
        ("train.global_batch_size=eight", "train.global_batch_size=eight is not a whole number: write digits only"),
        ("run.seed=" + "1" * 5000, r"run.seed=1{80}\.\.\. is not a whole number"),
        ("run.seed=٣", "run.seed=٣ is not a whole number"),
        ("data.shuffle=1", "data.shuffle=1 is neither true nor false: write one of these"),
        ("masking.protected=eos", r"masking.protected=eos is not a list: write \[eos\]"),
        ("masking.protected=[eos,,bos]", r"masking.protected=\[eos,,bos\] has an empty element: remove a comma"),
        ("optimizer.betas=[0.9]", r"optimizer.betas=\[0.9\] has 1 elements: give 2"),
        ("data.remote=", "data.remote is empty: give it a value, such as data/sample/mds, or leave the key out"),
        ("train.max_duration=1000", r"train.max_duration=1000 has no unit: write 1000ba \(batches\), 1000tok \(tok"),
        ("run.name.x=1", "unknown key 'run.name.x'"),
        ("Masking.Ratio=0.2", "unknown key 'Masking.Ratio'; did you mean 'masking.ratio'"),
        ("name=x", "unknown key 'name'; did you mean 'run.name' or 'tokenizer.name'"),
        ("run.name=\udc80", r"'run.name=\\udc80' is not UTF-8 text"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_what_to_write(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        typed(override)


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", "a\\b", ".", "..", "", " ", "a\nb", "a\x00b", "a\x7fb", "x" * 300, "ü" * 101]
)
def test_a_name_of_a_run_is_the_name_of_a_folder(name: str):
    with pytest.raises(
        ConfigError, match=r"^run\.name.*(: it names a folder .* at most 200 bytes|is empty)"
    ) as refused:
        typed(f"run.name={name}")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_name_that_is_a_folder_is_taken():
    for name in ("x" * 200, "0.3b_ratio-0.10", "...", "a b", "ünï"):
        assert typed(f"run.name={name}").run.dir == f"runs/{name}"
    assert typed("run.dir=../../anywhere").run.dir == "../../anywhere"
    with pytest.raises(ConfigError, match="is not a valid name for a stream .* use up to 64 letters, digits, - and _"):
        typed(f"data.streams.{'x' * 65}.remote=a")
    with pytest.raises(ConfigError, match=r"commonsense\.tasks='\.\./x' leads to another folder"):
        load_config(EvaluationConfig, None, ["commonsense.tasks=[../x]"])


@pytest.mark.parametrize("reference", ["${oc.env:SECRET}", "a${env:SECRET}b", "${oc.decode:x}", "${a:b,c}"])
def test_what_would_copy_the_environment_into_records_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
):
    monkeypatch.setenv("SECRET", "hunter2")
    path = tmp_path / "x.yaml"
    path.write_text(f"loggers:\n  wandb_entity: {reference}\n")
    message = (
        r"x\.yaml:2:3: \$\{.*\} is refused: its value would be stored in logs and checkpoints.* read credentials from"
    )
    with pytest.raises(ConfigError, match=message) as refused:
        load_config(RecipeConfig, path)
    assert "hunter2" not in str(refused.value)


def test_references_to_other_keys_are_values():
    config = typed(
        "run.name=r${masking.ratio}-${run.seed}",
        "data.cache_dir=${run.dir}/c",
        "train.microbatch_size=${train.global_batch_size}",
        "data.streams.a.remote=s3://${run.name}",
        "data.streams.b.remote=${data.streams.a.remote}/b",
        "tokenizer.name=${model.base}",
    )
    assert config.data.cache_dir == "runs/r0.15-17/c"
    assert config.checkpoint.folder == "runs/r0.15-17/checkpoints"
    assert config.train.microbatch_size == 256
    assert config.data.streams["b"].remote == "s3://r0.15-17/b"
    assert config.tokenizer.name is None
    assert load_config(EvaluationConfig, None, ["model=m", "perplexity.remote=[${model}]"]).perplexity.remote == ("m",)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.dir=${run.nam}"], r"\$\{run.nam\} is not a key of the configuration: did you mean \$\{run.name\}"),
        (["run.dir=${HOME}/x"], r"\$\{HOME\} is not a key of the configuration"),
        (["run.dir=${data.streams.a.remote}"], r"\$\{data.streams.a.remote\} is not a key"),
        (["run.dir=${run}"], r"\$\{run\} is a section: refer to one of its keys"),
        (["run.dir=x${run.dir}"], r"run.dir=.* leads back to itself \(run.dir -> run.dir\): give one of them a value"),
        (["run.dir=${run.name}", "run.name=${run.dir}"], r"leads back to itself \(run.* -> run.* -> run"),
        (["run.dir=${run.name"], r"has a \$\{ without its \}"),
        (["run.dir=x${model.base}"], r"\$\{model.base\} is not set, so it cannot be part of a text"),
        (["run.dir=${model.base}"], "run.dir cannot be unset"),
        (["run.seed=${run.name}"], "run.seed=meap is not a whole number"),
    ],
)
def test_a_reference_that_leads_nowhere_is_named(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        typed(*overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run:\n  seed: 1\n  seed: 2\n", r"x\.yaml:3:3: duplicate key 'seed', also in line 2: remove one of the two"),
        ("run: {seed: 1}\nrun: {seed: 2}\n", r"x\.yaml:2:1: duplicate key 'run', also in line 1"),
        ("run:\n\tseed: 1\n", r"x\.yaml:2:1: not valid yaml: .*: indent with spaces, not with tabs"),
        ("run:\n- seed\n", r"x\.yaml:1:1: run=.*: run is a section: give its keys, such as run\.name"),
        ("run: 3\n", r"x\.yaml:1:1: run=3: run is a section"),
        ("run:\n  name:\n  - a\n", r"x\.yaml:2:3: run\.name is text, not a list: write it in the key's own line"),
        ("run:\n  name:\n    a: b\n", r"x\.yaml:2:3: run\.name is text, not a section"),
        ("run:\n  seed:\n  - 1\n", r"x\.yaml:2:3: run\.seed is one value, not a list"),
        ("run:\n  seed: many\n", r"x\.yaml:2:3: run\.seed=many is not a whole number"),
        ("run:\n  name: a: b\n", r"x\.yaml:2:10: not valid yaml: mapping values .* put a value that holds a colon"),
        ("run:\n  name: *.gz\n", r"x\.yaml:2:10: not valid yaml: .*: put the value in quotes"),
        (
            "run:\n  name: !env X\n",
            r"x\.yaml:2:9: !env is a yaml tag, which is not supported: put the value in quo",
        ),
        ("run.name: x\n", r"x\.yaml:1:1: unknown key 'run\.name'; in a yaml, .*: write run: \{name: \.\.\.\}"),
        ("run:\n  ? [a]\n  : b\n", r"x\.yaml:2:5: the name of a key must be text"),
        ("run: &a\n  b: *a\n", r"x\.yaml:1:6: an alias \(\*\) refers to a value that contains it"),
        ("a: 1\n---\nb: 2\n", r"x\.yaml:2:1: not valid yaml: but found another document"),
        (
            "run: {name: 'a\x01'}\n",
            r"x\.yaml:1:15: not valid yaml: it has a character that yaml does not allow, '\\x01'",
        ),
        ("base: [a]\n", r"x\.yaml:1:1: base=\[a\] is relative to this yaml, and there is no .*/\[a\]: "),
        ("base:\n", r"x\.yaml:1:1: base must name a yaml"),
        ("a: " + "[" * 1500, r"x\.yaml.* not valid yaml"),
    ],
)
def test_a_yaml_that_is_wrong_is_told_where_and_what(tmp_path: Path, text: str, message: str):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        load_config(RecipeConfig, path)
    assert "\n" not in str(refused.value)


def test_a_yaml_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "x.yaml").write_bytes(b"run: {name: \xff}\n")
    with pytest.raises(ConfigError, match=r"x\.yaml is not UTF-8 text: save it as UTF-8"):
        load_config(RecipeConfig, tmp_path / "x.yaml")


def test_a_section_whose_keys_are_commented_out_says_nothing(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("masking:\n#  ratio: 0.2\ndata:\n  streams:\n")
    assert load_config(RecipeConfig, path, ["run.name=meap"]) == typed()


def test_aliases_of_a_yaml_are_values(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("data:\n  streams:\n    a: {remote: &r 'x', proportion: 1}\nrun:\n  name: *r\n")
    assert load_config(RecipeConfig, path).run.name == "x"


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=5, max_size=5), number=st.floats(allow_nan=False))
def test_what_is_stored_is_read_back_exactly(tmp_path: Path, texts: list[str], number: float):
    a, b, c, d, e = texts
    for config in (
        HaystackConfig(dir=a),
        SlurmConfig(time_hours=abs(number) + 1, qos=b, sbatch_args={a: c, "x": d}, logs_dir=e),
        PerplexityConfig(remote=(a, b, c)),
    ):
        path = tmp_path / "config.yaml"
        save_config(config, path)
        record = json.loads(json.dumps(to_values(config)))
        for again in (load_resolved(type(config), path), from_values(type(config), record, origin="a record")):
            assert again == config
        assert read_yaml(path) == to_values(config), "other programs read the same"


def test_a_folder_that_cannot_be_made_is_found_out(tmp_path: Path):
    (tmp_path / "file").write_text("")
    require_writable_folder("run.dir", str(tmp_path / "new" / "run"))
    require_writable_folder("run.dir", "s3://bucket/run")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match=r"run.dir=.*/file/run: .*/file is a file; choose another folder"):
        require_writable_folder("run.dir", str(tmp_path / "file" / "run"))
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(
        ConfigError, match=r"run.dir=.*/link/run: .*/link is a link to gone, which does not exist; create"
    ):
        require_writable_folder("run.dir", str(tmp_path / "link" / "run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_found_out(tmp_path: Path):
    tmp_path.chmod(0o555)
    with pytest.raises(
        ConfigError, match=r"run.dir=.* cannot be written: you have no permission for .*; choose another"
    ):
        require_writable_folder("run.dir", str(tmp_path / "run"))
