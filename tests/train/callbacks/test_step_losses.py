"""Weights that are no numbers are saved by nobody; those that a checkpoint is about to replace may be anything."""

from types import SimpleNamespace

import pytest
import torch
from composer.core import Timestamp

from meap.errors import TrainingError
from meap.train.callbacks import StepLosses


def test_weights_are_looked_at_once_they_have_been_trained():
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, float("nan"))
    losses = StepLosses(interval=1)
    state, logger = SimpleNamespace(model=model, timestamp=Timestamp(batch=3)), SimpleNamespace(log_metrics=dict)
    losses.init(state, logger)
    assert losses.state_dict() == {}
    losses.add(Timestamp(batch=2), torch.tensor(1.0), torch.tensor([0]))
    with pytest.raises(TrainingError, match="after step 3"):
        losses.state_dict()
