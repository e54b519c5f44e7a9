import importlib.machinery
import importlib.util
import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from meap.config import ModelConfig, TrainConfig, load_config
from meap.config.recipe import RecipeConfig
from meap.errors import ConfigError
from meap.train.attention import choose_attention
from meap.train.machine import join_machine
from meap.train.model import NextTokenModel, build_model, decoder_config
from meap.train.speed import choose_compilation, choose_kernels, compile_model, speed_up

SMALL = ModelConfig(
    hidden_size=16, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=10
)
VOCAB, SEQ_LEN = 64, 12


def make_model(*, checkpointing: bool = False, loss_chunks: int = 1) -> NextTokenModel:
    config = decoder_config(SMALL, vocab_size=VOCAB, seq_len=SEQ_LEN)
    model = build_model(config, attention=choose_attention("auto", on_gpu=False, bf16=False), seed=0)
    if checkpointing:
        model.model.activation_checkpointing_enable({"use_reentrant": False})
    model.loss_chunks = loss_chunks
    return model.train()


def losses_of(model: NextTokenModel, steps: int = 3) -> list[float]:
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.randint(0, VOCAB, (2, SEQ_LEN + 1), generator=generator)
        loss = model({"input_ids": rows[:, :-1], "labels": rows[:, 1:].contiguous(), "sample_id": None})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture(autouse=True)
def forget_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(("checkpointing", "loss_chunks"), [(False, 1), (True, 3)])
def test_all_layers_are_one_graph_and_the_loss_another_and_nothing_changes(checkpointing, loss_chunks):
    """More layers than torch's limit of recompilations, beyond which layers would silently run as they were."""
    plain, compiled = (make_model(checkpointing=checkpointing, loss_chunks=loss_chunks) for _ in range(2))
    counter = CompileCounterWithBackend("aot_eager")
    compile_model(compiled, backend=counter)
    assert losses_of(compiled) == pytest.approx(losses_of(plain), abs=1e-5)
    assert counter.frame_count == 2
    assert not torch._dynamo.utils.counters["graph_break"]
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.slow
def test_under_autocast_layers_are_one_graph_too():
    compiled = make_model()
    counter = CompileCounterWithBackend("aot_eager")
    compile_model(compiled, backend=counter)
    with torch.autocast("cpu", torch.bfloat16):
        assert losses_of(compiled)[-1] < losses_of(make_model())[0]
    assert counter.frame_count == 2
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.fixture
def kernels_as_before():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize("has_segments", [False, True])
def test_rows_with_segments_do_without_cudnn(small_config, tmp_path, kernels_as_before, has_segments):
    """It builds a graph for each new shape, which takes tens of milliseconds, and memory that is not given back."""
    config = small_config(tmp_path / "run", "train.compile=false")
    speed_up(config, make_model(), on_gpu=False, has_segments=has_segments)
    assert torch.backends.cuda.cudnn_sdp_enabled() == (not has_segments)


def test_deterministic_runs_use_no_kernel_that_only_warns(small_config, tmp_path, kernels_as_before):
    join_machine(small_config(tmp_path / "run", "train.deterministic=true").train)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch's own compiler needs g++ on a CPU")
def test_torchs_compiler_computes_the_same():
    plain, compiled = make_model(), make_model()
    compile_model(compiled)
    assert losses_of(compiled) == pytest.approx(losses_of(plain), abs=1e-5)


def test_compiled_is_what_runs_on_a_gpu_but_not_fine_tuning():
    assert choose_compilation("auto", on_gpu=True, has_segments=False) == bool(shutil.which("g++"))
    assert not choose_compilation("auto", on_gpu=True, has_segments=True)
    assert not choose_compilation("auto", on_gpu=False, has_segments=False)
    assert not choose_compilation("false", on_gpu=True, has_segments=False)


def test_what_cannot_be_compiled_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"train\.compile=true, but fine-tuning rows have segments"):
        choose_compilation("true", on_gpu=True, has_segments=True)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"train\.compile=true needs a C\+\+ compiler"):
        choose_compilation("true", on_gpu=True, has_segments=False)
    assert not choose_compilation("auto", on_gpu=True, has_segments=False)


@pytest.mark.parametrize("given", ["true", "false", "auto"])
def test_yamls_true_and_false_are_understood(given):
    assert load_config(RecipeConfig, None, [f"train.compile={given}"]).train.compile == given


def test_other_answers_are_refused():
    with pytest.raises(ConfigError, match=r"train\.compile"):
        TrainConfig(compile="yes")
    with pytest.raises(ConfigError, match=r"train\.loss_chunks"):
        TrainConfig(loss_chunks=-1)


@pytest.fixture
def liger_installed(monkeypatch):
    found = importlib.machinery.ModuleSpec("liger_kernel", None)
    monkeypatch.setattr("meap.extras.find_spec", lambda name: found)


def test_liger_serves_where_layers_are_not_compiled(liger_installed):
    assert choose_kernels("auto", on_gpu=True, compiled=False) == "liger"
    assert choose_kernels("auto", on_gpu=True, compiled=True) == "torch"
    assert choose_kernels("auto", on_gpu=False, compiled=False) == "torch"
    assert choose_kernels("torch", on_gpu=True, compiled=False) == "torch"
    assert choose_kernels("liger", on_gpu=True, compiled=False) == "liger"


def test_liger_is_refused_where_it_cannot_run(liger_installed):
    with pytest.raises(ConfigError, match=r"model\.kernels=liger needs the liger-kernel package \(installed\)"):
        choose_kernels("liger", on_gpu=False, compiled=False)
    with pytest.raises(ConfigError, match=r"model\.kernels=liger and compiled layers exclude each other"):
        choose_kernels("liger", on_gpu=True, compiled=True)
    with pytest.raises(ConfigError, match=r"model\.kernels"):
        ModelConfig(kernels="triton")


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is not None, reason="liger-kernel is installed")
def test_what_is_not_installed_is_named():
    assert choose_kernels("auto", on_gpu=True, compiled=False) == "torch"
    with pytest.raises(ConfigError, match=r"not installed: make install EXTRAS=gpu "):
        choose_kernels("liger", on_gpu=True, compiled=False)
