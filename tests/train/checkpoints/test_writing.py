"""What a checkpoint holds is apart from what training goes on with, and in memory once."""

import pytest
import torch

from meap.train.checkpoints.writing import _copied


@pytest.mark.parametrize("is_gathered", [False, True])
def test_weights_that_were_gathered_are_not_copied_once_more(is_gathered):
    """Rank 0 held a sharded model and its moments twice, which a node may have no room for."""
    weight, moment, step, callback, rng = torch.ones(3), torch.ones(3), torch.tensor(5.0), torch.ones(2), torch.ones(2)
    content = {
        "state": {
            "model": {"weight": weight},
            "optimizers": {"AdamW": {"state": {"weight": {"step": step, "exp_avg": moment}}}},
            "callbacks": {"own": callback},
            "timestamp": {"Timestamp": {"batch": 7}},
        },
        "rng": [{"torch": rng}],
    }
    copied = _copied(content, is_gathered=is_gathered)
    assert copied["state"]["timestamp"] == {"Timestamp": {"batch": 7}}
    for tensor, other, may_stay in (
        (weight, copied["state"]["model"]["weight"], True),
        (moment, copied["state"]["optimizers"]["AdamW"]["state"]["weight"]["exp_avg"], True),
        (step, copied["state"]["optimizers"]["AdamW"]["state"]["weight"]["step"], False),
        (callback, copied["state"]["callbacks"]["own"], False),
        (rng, copied["rng"][0]["torch"], False),
    ):
        assert torch.equal(tensor, other)
        assert (tensor.data_ptr() == other.data_ptr()) == (is_gathered and may_stay)
