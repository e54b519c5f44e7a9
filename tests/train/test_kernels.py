import importlib.machinery
import importlib.util

import pytest

from meap.config import ModelConfig
from meap.errors import ConfigError
from meap.train.kernels import choose_kernels


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
