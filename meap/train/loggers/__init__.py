"""Where metrics go: a file, TensorBoard, Weights & Biases, MLflow. Each is handed every step once, whole and in order.

stepwise      what they share            metrics_file, tensorboard, wandb, mlflow    one each
destinations  those that section `loggers` asks for
"""

from meap.train.loggers.destinations import build_loggers
from meap.train.loggers.metrics_file import MetricsFile

__all__ = ["MetricsFile", "build_loggers"]
