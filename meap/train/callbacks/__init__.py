"""What a run measures. To add a metric, write a Callback here and name it in the recipe.

masking_monitor  realised ratio, losses of masked and of clean targets
samples          answers to held-out prompts
step_losses      the loss of every step; an error where it is not finite
step_seeds       random numbers of a step, for dropout
throughput       tokens per second, MFU, memory, time left
"""

from composer.callbacks import LRMonitor

from meap.train.callbacks.masking_monitor import MaskingMonitor
from meap.train.callbacks.samples import Samples
from meap.train.callbacks.step_losses import StepLosses
from meap.train.callbacks.step_seeds import StepSeeds
from meap.train.callbacks.throughput import Throughput

__all__ = [
    "LRMonitor",
    "MaskingMonitor",
    "Samples",
    "StepLosses",
    "StepSeeds",
    "Throughput",
]
