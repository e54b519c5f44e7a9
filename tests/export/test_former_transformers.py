"""An exported folder is read rightly by transformers 4 too, which `make developed` puts beside the locked packages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from meap.errors import CheckpointError
from meap.export.hf import ExportSource, export_model
from meap.manifest import CONVERSATIONS
from meap.rope import former_rope, require_same_rope
from meap.usage import Usage

FORMER = Path(sys.prefix, "transformers-4")
SOURCE = ExportSource(run="small", checkpoint="ba7.pt", step=7, tokens=700, masking_ratio=0.15)
USAGE = Usage(begins_with_bos=True)
PLAIN = {"rope_type": "default", "rope_theta": 500_000.0}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
READ = """
import sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
assert transformers.__version__.startswith("4."), transformers.__version__
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.no_grad():
    logits = model(torch.arange(5, 45)[None]).logits
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
chat = tokenizer.apply_chat_template([{"role": "user", "content": sys.argv[2]}], add_generation_prompt=True)
facts = (tokenizer.pad_token, tokenizer.padding_side, tokenizer.model_max_length, model.generation_config.eos_token_id)
ids = tokenizer(sys.argv[2])["input_ids"]
torch.save({"logits": logits, "ids": ids, "chat": chat, "facts": facts}, sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.skipif(not FORMER.is_dir(), reason="transformers 4 is not beside the locked packages: make developed")
def test_both_versions_compute_the_same(model, tokenizer, tmp_path, quiet_environment):
    model.config.rope_parameters = dict(SCALED)
    rebuilt = LlamaForCausalLM(model.config)
    rebuilt.load_state_dict(model.state_dict())
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ 'A:' if add_generation_prompt }}"
    usage = Usage(CONVERSATIONS, True, (7,), template, {"temperature": 0.6, "do_sample": False})
    export_model(rebuilt, tokenizer, tmp_path / "hf", SOURCE, usage=usage)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "hf"), "The harbour  lamp\n", str(tmp_path / "read.pt")],
        env=quiet_environment | {"PYTHONPATH": str(FORMER)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    former = torch.load(tmp_path / "read.pt")
    now = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        logits = now(torch.arange(5, 45)[None]).logits
    torch.testing.assert_close(former["logits"], logits, rtol=0, atol=1e-4)
    assert former["ids"] == [tokenizer.bos_id, *tokenizer.encode("The harbour  lamp\n")]
    assert former["chat"] == [tokenizer.bos_id, *tokenizer.encode("The harbour  lamp\nA:")]
    assert former["facts"] == ("[MASK]", "left", 64, [7, tokenizer.eos_id])
    other_theta = LlamaForCausalLM(model.config.__class__(**now.config.to_dict() | {"rope_parameters": None}))
    other_theta.load_state_dict(now.state_dict())
    with torch.no_grad():  # the difference would show
        assert (other_theta.eval()(torch.arange(5, 45)[None]).logits - logits).abs().max() > 1e-2


def test_the_configuration_states_theta_and_scaling_in_both_ways(model, tokenizer, tmp_path):
    for number, parameters in enumerate((PLAIN, SCALED)):
        model.config.rope_parameters = dict(parameters)
        rebuilt = LlamaForCausalLM(model.config)
        export_model(rebuilt, tokenizer, tmp_path / str(number), SOURCE, usage=USAGE)
        written = json.loads((tmp_path / str(number) / "config.json").read_text())
        assert written["rope_parameters"] == parameters
        assert written["rope_theta"] == 500_000.0
        assert former_rope(parameters) == {name: written[name] for name in ("rope_theta", "rope_scaling")}
    assert written["rope_scaling"] == {name: value for name, value in SCALED.items() if name != "rope_theta"}


def test_a_configuration_that_states_two_thetas_is_refused():
    require_same_rope("model=x", {"rope_theta": 5e5}, {"rope_theta": 5e5})
    require_same_rope("model=x", {"rope_parameters": {"rope_theta": 5e5}}, {"rope_theta": 5e5})
    require_same_rope("model=x", {}, {"rope_theta": 1e4})
    require_same_rope("model=x", {"rope_theta": 5e5}, None)
    stored = {"rope_theta": 500_000.0, "rope_parameters": {"rope_theta": 10_000.0}}
    with pytest.raises(CheckpointError, match="model=x: config.json states RoPE theta 10,000 and 500,000, but"):
        require_same_rope("model=x", stored, {"rope_theta": 10_000.0})
