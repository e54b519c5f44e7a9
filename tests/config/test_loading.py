from pathlib import Path

import pytest

from meap.config import (
    PrepConfig,
    RecipeConfig,
    SftPrepConfig,
    StreamConfig,
    load_config,
    load_resolved,
    save_config,
    to_yaml,
)
from meap.config.command import describe_keys
from meap.config.keys import config_keys
from meap.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_precedence_is_defaults_base_yaml_command_line(tmp_path: Path):
    write(tmp_path / "base.yaml", "masking: {ratio: 0.2}\nrun: {name: base, seed: 3}\n")
    write(tmp_path / "middle.yaml", "base: base.yaml\nrun: {name: middle}\noptimizer: {lr: 0.1}\n")
    top = write(tmp_path / "top.yaml", "base: middle.yaml\noptimizer: {lr: 0.2}\n")
    config = load_config(RecipeConfig, top, ["run.seed=9"])
    assert (config.masking.ratio, config.run.name, config.optimizer.lr, config.run.seed) == (0.2, "middle", 0.2, 9)
    assert config.train.global_batch_size == RecipeConfig().train.global_batch_size
    assert config.checkpoint.folder == "runs/middle/checkpoints"


def test_a_run_is_named_after_its_yaml_unless_that_says_otherwise(tmp_path: Path):
    write(tmp_path / "plain.yaml", "masking: {ratio: 0.2}\n")
    variant = write(tmp_path / "0.3b_variant.yaml", "base: plain.yaml\n")
    config = load_config(RecipeConfig, variant)
    assert (config.run.name, config.run.dir) == ("0.3b_variant", "runs/0.3b_variant")
    assert load_config(RecipeConfig, variant, ["run.name=mine"]).run.dir == "runs/mine"
    assert load_config(RecipeConfig).run.name == "meap"


def test_a_resolved_configuration_reads_back_equal(tmp_path: Path):
    config = load_config(RecipeConfig, None, ["run.name=x", "optimizer.betas=[0.8,0.9]", "data.cache_limit=10gb"])
    save_config(config, tmp_path / "deep/config.yaml")
    assert load_resolved(RecipeConfig, tmp_path / "deep/config.yaml") == config
    assert "${" not in to_yaml(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("masking.ratoi=0.2", "unknown key 'masking.ratoi'; did you mean 'masking.ratio'"),
        ("ratio=0.2", "unknown key 'ratio'; did you mean 'masking.ratio'"),
        ("zzz=1", "unknown key 'zzz'; run with --help"),
        ("masking.ratio=1.5", r"masking.ratio=1.5 is out of range: it must be in \[0, 1\). The paper uses 0.15"),
        ("masking.ratio=-0.1", "masking.ratio=-0.1 is out of range"),
        ("masking.ratio=.nan", "masking.ratio=nan is out of range"),
        ("masking.ratio=many", "masking.ratio=many is not a number: write digits, as 0.15 or 4e-4"),
        ("masking.site=nowhere", "masking.site='nowhere' is not known: choose one of algorithm, dataset"),
        ("masking.strategy=block", "masking.strategy='block' is not known: choose one of random, span"),
        ("masking.span_length=0", "masking.span_length=0 is too small"),
        (
            "masking.replacement=noise",
            "masking.replacement='noise' is not known: write mask, random, or shares such as",
        ),
        ("masking.replacement={mask: 0.8, random: 0.1}", "has shares that add up to 0.9: they must add up to 1"),
        ("masking.replacement={mask: 0.5, mask: 0.5}", "does not give each of mask, random, keep one share or none"),
        ("masking.replacement={mask: 0.5, noise: 0.5}", "does not give each of mask, random, keep one share or none"),
        ("masking.replacement={mask: -1, random: 2}", "does not give each of mask, random, keep one share or none"),
        ("masking.replacement={keep: 1}", "changes nothing: lower keep, or set masking.ratio=0"),
        ("scheduler.schedule=step", "scheduler.schedule='step' is not known: choose one of constant, cosine, wsd"),
        ("scheduler.decay_shape=cubic", "scheduler.decay_shape='cubic' is not known: choose one of 1-sqrt, linear"),
        ("scheduler.decay_fraction=1.5", r"decay_fraction=1.5 is out of range: it must be in \[0, 1\]"),
        (
            "train.branch_from=runs/trunk",
            "train.branch_from=runs/trunk is not a checkpoint: give a file ba<step>",
        ),
        ("masking.reversed_ratio=1.5", r"masking.reversed_ratio=1.5 is out of range: it must be in \[0, 1\]"),
        ("masking.from_epoch.0.ratio=0.1", "masking.from_epoch.0: '0' is no epoch after the first: give its number, 1"),
        ("masking.from_epoch.one.ratio=0.1", "masking.from_epoch.one: 'one' is no epoch after the first"),
        ("masking.from_epoch.1.ratio=", "masking.from_epoch.1 changes nothing: give its ratio or its replacement"),
        ("masking.from_epoch.2.ratio=15", r"masking.from_epoch.2.ratio=15.0 is out of range: .* Write 0.15 for 15 %"),
        ("masking.from_epoch.2.replacement=noise", "masking.from_epoch.2.replacement='noise' is not known: write mask"),
        ("masking.from_epoch.2.strategy=span", "unknown key 'masking.from_epoch.2.strategy'"),
        ("masking.protected=[pad]", "masking.protected='pad' is not known"),
        ("masking.preset=theirs", "masking.preset='theirs' is not known"),
        ("masking.preset=official", "set masking.site=algorithm"),
        ("masking.scope=prompt", "masking.scope='prompt' is not known: choose one of all, response"),
        ("masking.scope=response", "depends on the labels of a batch, .* set masking.site=algorithm"),
        ("masking.schedule=step", "masking.schedule='step' is not known: choose one of constant, cosine, linear"),
        ("masking.schedule=linear", "masking.schedule=linear needs an end: set masking.final_ratio"),
        ("masking.final_ratio=0.3", "masking.final_ratio=0.3 is the end of a schedule, but masking.schedule=constant"),
        ("masking.schedule_duration=soon", "masking.schedule_duration='soon' is not a duration: .* such as 0.5dur"),
        ("masking.schedule_duration=1.5dur", "masking.schedule_duration='1.5dur' is not a duration"),
        ("masking.schedule_duration=0dur", "masking.schedule_duration='0dur' is not a duration"),
        ("run.seed=-1", "run.seed=-1 is out of range"),
        ("run.name", "'run.name' is not an override: write section.key=value"),
        ("data=3", "data=3: data is a section: give its keys, such as data.remote"),
        ("data.seq_len=1", "data.seq_len=1 is too small: it must be at least 2"),
        ("data.num_canonical_nodes=0", "data.num_canonical_nodes=0 is too small"),
        ("data.num_canonical_nodes=null", "data.num_canonical_nodes"),
        ("train.dist_timeout=0", "train.dist_timeout=0.0 is not allowed: it must be more than 0 seconds"),
        ("data.download_timeout=0", "data.download_timeout=0.0 must be more than 0 seconds"),
        ("model.hidden_size=63", "model.hidden_size=63 does not split into 32 heads"),
        ("model.num_key_value_heads=5", "model.num_attention_heads=32 is not a multiple"),
        ("model.attention=fast", "model.attention='fast' is not known"),
        ("optimizer.lr=0", "optimizer.lr=0.0 must be more than 0"),
        ("optimizer.betas=[0.9,1.0]", "optimizer.betas=1.0 is out of range"),
        ("train.max_duration=forever", "train.max_duration='forever' is not a duration"),
        ("train.max_duration=1dur", "train.max_duration='1dur' is not a duration: write for example 1000ba"),
        ("train.max_duration=0ep", "train.max_duration='0ep' is not a duration"),
        ("scheduler.warmup_duration=1min", "scheduler.warmup_duration='1min' is not a duration: write for example"),
        (
            "model.base_rope_theta=640000",
            "model.base_rope_theta=640000 replaces the theta of model.base, which is not set",
        ),
        ("train.device=tpu", "train.device='tpu' is not known"),
        ("checkpoint.interval=10", "checkpoint.interval='10' is not an interval: write for example 100ba .*, 1ep, 200"),
        ("train.eval_interval=0ba", "train.eval_interval='0ba' is not an interval: .* such as 0.1dur"),
        ("train.log_interval=2dur", "train.log_interval='2dur' is not an interval: .*a share of the training in"),
        ("checkpoint.keep=0", "checkpoint.keep=0 is not allowed"),
    ],
)
def test_each_bad_value_gets_one_clear_error(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(RecipeConfig, None, [override])


def test_the_official_preset_fixes_the_rule():
    overrides = ["masking.preset=official", "masking.site=algorithm"]
    assert load_config(RecipeConfig, None, overrides).masking.preset == "official"
    with pytest.raises(ConfigError, match="masking.preset=official fixes the rule"):
        load_config(RecipeConfig, None, [*overrides, "masking.strategy=span"])
    with pytest.raises(ConfigError, match="masking.preset=official fixes the ratio of a run"):
        load_config(RecipeConfig, None, [*overrides, "masking.schedule=linear", "masking.final_ratio=0.3"])


@pytest.mark.parametrize("duration", ["1dur", "1.0dur", "0.5dur", ".25dur", "100ba", "1ep"])
def test_a_schedule_of_the_ratio_needs_the_algorithm_and_a_ratio_below_one(duration: str):
    schedule = ["masking.schedule=cosine", f"masking.schedule_duration={duration}"]
    algorithm = [*schedule, "masking.site=algorithm"]
    assert load_config(RecipeConfig, None, [*algorithm, "masking.final_ratio=0"]).masking.final_ratio == 0.0
    with pytest.raises(ConfigError, match=r"masking.final_ratio=1.0 is out of range: it must be in \[0, 1\)"):
        load_config(RecipeConfig, None, [*algorithm, "masking.final_ratio=1"])
    with pytest.raises(ConfigError, match="which loader workers do not know: set masking.site=algorithm"):
        load_config(RecipeConfig, None, [*schedule, "masking.final_ratio=0.3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("heldout_ratio=1.0", r"heldout_ratio=1.0 is out of range"),
        ("tasks=0", "tasks=0 is too small"),
        ("workers=-1", "workers=-1 is too small"),
        ("seq_len=1", "seq_len=1 is too small"),
        ("seed=-1", "seed=-1 is out of range"),
        ("progress_interval=0", "progress_interval=0.0 must be more than 0"),
        ("tokenizer.nam=x", "did you mean 'tokenizer.name'"),
    ],
)
def test_each_bad_preparation_value_gets_one_clear_error(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(PrepConfig, None, [override])


def test_a_pattern_on_the_command_line_is_text():
    assert load_config(PrepConfig, None, ["source=*.json.gz"]).source == "*.json.gz"
    assert load_config(PrepConfig, None, ["source=*/it's.json"]).source == "*/it's.json"
    assert load_config(PrepConfig, None, ["source=[a"]).source == "[a"


def test_a_missing_yaml_names_those_beside_it(tmp_path: Path):
    write(tmp_path / "there.yaml", "")
    with pytest.raises(ConfigError, match=r"no configuration file at .*gone\.yaml; there are .*there\.yaml"):
        load_config(RecipeConfig, tmp_path / "gone.yaml")


def test_a_missing_base_names_the_yaml_that_asks_for_it(tmp_path: Path, project_root: Path):
    mine = write(tmp_path / "mine.yaml", "run: {seed: 3}\nbase: sft_llama3_8b.yaml\n")
    there = project_root / "yamls/sft_llama3_8b.yaml"
    with pytest.raises(ConfigError) as refused:
        load_config(RecipeConfig, mine)
    assert str(refused.value) == (
        f"{mine}:2:1: base=sft_llama3_8b.yaml is relative to this yaml, and there is no "
        f"{tmp_path}/sft_llama3_8b.yaml: write base: {there}"
    )
    write(mine, f"run: {{seed: 3}}\nbase: {there}\n")
    assert load_config(RecipeConfig, mine).train.sharding == "grad_op"
    (tmp_path / "none.yaml").mkdir()  # a folder is none
    with pytest.raises(ConfigError, match=r"there is no .*/none\.yaml: correct the path, or copy that yaml, too$"):
        load_config(RecipeConfig, write(mine, "base: none.yaml\n"))


def test_a_missing_yaml_proposes_no_hidden_ones_but_those_of_yamls(tmp_path: Path):
    write(tmp_path / ".pre-commit-config.yaml", "")
    with pytest.raises(ConfigError, match=r"gone\.yaml, and no yaml beside it$"):
        load_config(RecipeConfig, tmp_path / "gone.yaml")
    (tmp_path / "yamls").mkdir()
    write(tmp_path / "yamls/tiny.yaml", "")
    with pytest.raises(ConfigError, match=r"gone\.yaml; there are /[^ ,]*/yamls/tiny\.yaml$"):
        load_config(RecipeConfig, tmp_path / "gone.yaml")


def test_a_malformed_yaml_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"bad\.yaml:1:15: not valid yaml: expected ',' or ']'"):
        load_config(RecipeConfig, write(tmp_path / "bad.yaml", "run: [unclosed"))
    with pytest.raises(ConfigError, match=r"list\.yaml:1:1: list\.yaml must hold sections with keys, not a list"):
        load_config(RecipeConfig, write(tmp_path / "list.yaml", "- 1\n"))


def test_a_yaml_that_is_its_own_base_is_refused(tmp_path: Path):
    loop = write(tmp_path / "loop.yaml", "base: loop.yaml\n")
    with pytest.raises(ConfigError, match="leads back to itself"):
        load_config(RecipeConfig, loop)


def test_an_unknown_key_in_a_yaml_names_the_file(tmp_path: Path):
    path = write(tmp_path / "x.yaml", "masking: {ratoi: 0.1}\n")
    with pytest.raises(ConfigError, match=r"x\.yaml:1:11: unknown key 'masking\.ratoi'"):
        load_config(RecipeConfig, path)


def test_keys_are_listed_with_their_sections():
    assert {"run", "run.seed", "masking.ratio", "export.out_dir"} <= set(config_keys(RecipeConfig))
    assert {"data.streams", "data.streams.<name>", "data.streams.<name>.proportion"} <= set(config_keys(RecipeConfig))


def test_streams_come_from_yamls_and_the_command_line_and_read_back_equal(tmp_path: Path):
    base = write(tmp_path / "base.yaml", "data: {streams: {web: {remote: a, proportion: 2}}}\n")
    write(tmp_path / "top.yaml", "base: base.yaml\ndata: {streams: {code: {remote: b, proportion: 1}}}\n")
    overrides = [
        "data.streams.web.proportion=3",
        "data.streams.arxiv.remote=s3://c",
        "data.streams.arxiv.proportion=.5",
    ]
    config = load_config(RecipeConfig, tmp_path / "top.yaml", overrides)
    assert config.data.streams == {
        "web": StreamConfig("a", 3.0),
        "code": StreamConfig("b", 1.0),
        "arxiv": StreamConfig("s3://c", 0.5),
    }
    save_config(config, tmp_path / "saved.yaml")
    assert load_resolved(RecipeConfig, tmp_path / "saved.yaml") == config
    assert load_config(RecipeConfig, base).data.streams == {"web": StreamConfig("a", 2.0)}


def test_arguments_of_sbatch_have_names_of_the_users_choice(tmp_path: Path):
    path = write(tmp_path / "x.yaml", "executor: slurm\nslurm: {sbatch_args: {account: physics}}\n")
    config = load_config(PrepConfig, path, ["slurm.sbatch_args.nice=10", "slurm.sbatch_args.mail-type=ALL"])
    assert config.slurm.sbatch_args == {"account": "physics", "nice": "10", "mail-type": "ALL"}
    save_config(config, tmp_path / "saved.yaml")
    assert load_resolved(PrepConfig, tmp_path / "saved.yaml") == config
    assert "slurm.sbatch_args=\n" in "\n".join(describe_keys(PrepConfig))


@pytest.mark.parametrize("config_class", [PrepConfig, SftPrepConfig])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("executor=k8s", "executor='k8s' is not known: choose one of local, ray, slurm"),
        ("slurm.tasks=3", "unknown key 'slurm.tasks'; did you mean 'tasks'"),
        (
            "slurm.sbatch_args=3",
            "slurm.sbatch_args=3: slurm.sbatch_args is a section: give its keys, such as slurm.sbatch",
        ),
        ("slurm.sbatch_args.a.b=3", "unknown key 'slurm.sbatch_args.a.b'"),
        ("slurm.time_hours=0", "slurm.time_hours=0.0 is too small: it must be at least 0.01"),
        ("slurm.cpus_per_task=0", "slurm.cpus_per_task=0 is too small"),
        ("slurm.mem_per_cpu_gb=0", "slurm.mem_per_cpu_gb=0 is too small"),
        ("ray.cpus_per_task=0", "ray.cpus_per_task=0.0 must be more than 0 cores"),
        ("ray.memory_gb=-1", "ray.memory_gb=-1.0 is too small"),
    ],
)
def test_executors_that_cannot_be_are_refused(config_class: type, override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(config_class, None, [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.streams.a.remot=x"], "unknown key 'data.streams.a.remot'; did you mean 'data.streams.a.remote'"),
        (["data.streams.a.b.remote=x"], "unknown key 'data.streams.a.b'"),
        (["streams.a.remote=x"], "unknown key 'streams'; did you mean 'data.streams'"),
        (
            ["data.streams.a=3"],
            "data.streams.a=3: data.streams.a is a section: give its keys, such as data.streams.a.remote",
        ),
        (["data.streams.a.proportion=1"], "data.streams.a.remote is not set"),
        (["data.streams.a.remote=x", "data.streams.a.proportion=0"], "data.streams.a.proportion=0.0 is out of range"),
        (
            ["data.streams.a.remote=x", "data.streams.a.proportion=.nan"],
            "proportion=nan is out of range",
        ),
        (
            ["data.streams.a.remote=x", "data.streams.b.remote=y", "data.streams.b.proportion=1"],
            "data.streams.a.proportion is not set, but other streams have one",
        ),
        (["data.streams.a.remote=x", "data.streams.b.remote=x/"], "data.streams.a and data.streams.b are both x"),
        (["data.streams.a/b.remote=x"], "'a/b' is not a valid name for a stream"),
        (["data.shuffle_algo=naive"], "data.shuffle_algo='naive' is not known: choose one of py1br, py1e, py1s, py2s"),
        (["data.sampling_method=greedy"], "data.sampling_method='greedy' is not known"),
        (["data.batching_method=device_per_stream"], "would depend on the number of devices"),
        (["data.batching_method=per_stream"], "would depend on the number of devices"),
        (["data.batching_method=alternating"], "data.batching_method='alternating' is not known"),
        (["data.batching_method=stratified"], "stratified needs data.streams with proportions"),
        (["data.cache_limit=much"], "data.cache_limit='much' is not a size: write for example 100gb"),
        (["data.predownload=0"], "data.predownload=0 is too small"),
    ],
)
def test_each_bad_stream_gets_one_clear_error(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(RecipeConfig, None, overrides)
