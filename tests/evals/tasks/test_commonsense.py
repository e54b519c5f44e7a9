"""Multiple choice: the same numbers as the harness itself, on the same model and rows."""

import contextlib
import io
import json
import warnings

import pytest
import torch

from meap.errors import ConfigError, DataError
from meap.evals.hugging_face import HuggingFaceLM
from meap.evals.runner import run_tasks
from meap.evals.tasks import commonsense
from meap.evals.tasks.commonsense import examples


def direct_model(llama, tokenizer, *, add_bos):
    """A model of the harness that reads one row after the other; the harness itself splits context and choice."""
    from lm_eval.api.model import TemplateLM

    class Direct(TemplateLM):
        eot_token_id = tokenizer.eos_id

        def tok_encode(self, string, **how):
            return [tokenizer.bos_id] * add_bos + tokenizer.encode(string)

        def _loglikelihood_tokens(self, requests, **how):
            return [self._score(context, continuation) for _, context, continuation in requests]

        def _score(self, context, continuation):
            ids = torch.tensor(context + continuation)
            with torch.inference_mode():
                logits = llama(ids[None, :-1]).logits[0].log_softmax(-1)
            each = logits[torch.arange(len(ids) - 1), ids[1:]][-len(continuation) :]
            return float(each.sum()), False

        def loglikelihood_rolling(self, requests, **how):
            raise NotImplementedError

        def generate_until(self, requests, **how):
            raise NotImplementedError

    return Direct()


def harness_results(model, data_dir, *, tasks_dir, names):
    """What lm-evaluation-harness prints by itself, for its own tasks over local rows."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    index = commonsense._manager().task_index
    for name in names:
        local = dict.fromkeys(("train", "validation", "test"), str(data_dir / f"{name}.jsonl"))
        text = {"include": str(index[name].yaml_path), "task": f"{name}_local", "dataset_path": "json"}
        text |= {"dataset_name": None, "dataset_kwargs": {"data_files": local}}
        (tasks_dir / f"{name}.yaml").write_text(json.dumps(text))
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[f"{name}_local" for name in names],
            task_manager=TaskManager(include_path=str(tasks_dir), include_defaults=False),
            num_fewshot=0,
            bootstrap_iters=0,
            log_samples=False,
        )
    return {
        (name, metric): found["results"][f"{name}_local"][f"{metric},none"]
        for name in names
        for metric in ("acc", "acc_norm")
        if f"{metric},none" in found["results"][f"{name}_local"]
    }


@pytest.mark.slow
@pytest.mark.parametrize("add_bos", [True, False])
def test_the_numbers_are_those_of_the_harness(add_bos, llama, tokenizer, make_inputs, commonsense_dir, tmp_path):
    names = ("arc_easy", "boolq", "hellaswag", "winogrande")
    inputs = make_inputs(f"commonsense.data_dir={commonsense_dir}", f"add_bos={str(add_bos).lower()}")
    model = HuggingFaceLM(llama, tokenizer, name="small", batch_size=5)
    ours = run_tasks(inputs, model, ["commonsense"], tmp_path / "out")["tasks"]["commonsense"]
    (tmp_path / "tasks").mkdir()
    direct = direct_model(llama, tokenizer, add_bos=add_bos)
    theirs = harness_results(direct, commonsense_dir, tasks_dir=tmp_path / "tasks", names=names)
    found = {
        (row["by"]["task"], metric): estimate["value"]
        for row in ours["rows"]
        for metric, estimate in row["metrics"].items()
    }
    assert found == pytest.approx(theirs)
    assert len(found) == 6
    mean = sum(value for (_, metric), value in theirs.items() if metric == "acc") / 4
    assert ours["metrics"]["acc"]["value"] == pytest.approx(mean)
    assert ours["metrics"]["acc_norm"]["rows"] == 2


@pytest.mark.slow
def test_prompts_are_the_official_ones(make_inputs, commonsense_dir, tokenizer):
    found = {each.id: each for each in examples(make_inputs(f"commonsense.data_dir={commonsense_dir}"))}

    def texts(name):
        return [tokenizer.decode(each.ids.tolist(), skip_special_tokens=True) for each in found[name].candidates]

    assert texts("arc_easy-1")[1] == "Question: What does number 1 like?\nAnswer: a river"
    assert found["arc_easy-1"].right == 1
    assert texts("boolq-0") == [
        f"It has 0 legs.\nQuestion: does it have 0 legs?\nAnswer: {word}" for word in ("no", "yes")
    ]
    # The option is part of the context, and what follows it is scored.
    assert texts("winogrande-0")[0] == "The 0 cats saw the dogs, and then the cats ran away."
    scored = [each.ids[-each.scored :].tolist() for each in found["winogrande-0"].candidates]
    assert scored[0] == scored[1] == tokenizer.encode(" ran away.")


def test_what_cannot_be_asked_is_reported(make_inputs, tmp_path):
    with pytest.raises(DataError, match="has no arc_easy.jsonl: put the rows of its data set there"):
        examples(make_inputs(f"commonsense.data_dir={tmp_path}"))
    with pytest.raises(
        ConfigError, match="commonsense.tasks has 'arc_eazy', which is not a task of lm-evaluation-harness"
    ):
        examples(make_inputs(f"commonsense.data_dir={tmp_path}", "commonsense.tasks=[arc_eazy]"))
