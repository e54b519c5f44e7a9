"""Every error this project raises for a user, in one tree.

    MeapError                 catch this to catch them all
    ├── ConfigError           a key or a value of the configuration (also a ValueError)
    │   └── MissingPackageError  a package that a key needs is not installed (also an ImportError)
    ├── DataError             raw text, shards or manifests that are missing, damaged or of another kind
    │   ├── BadInputError     a raw file or line that cannot be read
    │   ├── IncompleteError   a data set or run that has not been finished
    │   └── MismatchError     two things that do not belong together (shards and tokenizer, say)
    ├── TrainingError         a step that gave no numbers, found no memory, or lost a process it needs
    ├── CheckpointError       a checkpoint or exported model that is missing, damaged or unsafe
    ├── JudgeError            a judge of an evaluation that cannot be asked, or not for the money
    └── StoppedError          a run that was asked to stop and has saved its state: no mistake of anybody's

A message names the value that was given, what is allowed, and what to do about it.
"""

import signal

__all__ = [
    "BadInputError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "IncompleteError",
    "JudgeError",
    "MeapError",
    "MismatchError",
    "MissingPackageError",
    "StoppedError",
    "TrainingError",
    "first_line",
]


class MeapError(Exception):
    """Base of all errors raised for users of this project."""


class ConfigError(MeapError, ValueError):
    """A configuration key or value is not allowed."""


class MissingPackageError(ConfigError, ImportError):
    """A package is not installed that a key, or a part of this library, needs."""


class DataError(MeapError):
    """Raw text, shards or a manifest cannot be used."""


class BadInputError(DataError):
    """A raw file or a line in it cannot be read."""


class IncompleteError(DataError):
    """A data set was never finished, or not all of it is there."""


class MismatchError(DataError):
    """Two artefacts do not belong together, such as shards and a tokenizer."""


class TrainingError(MeapError):
    """A step of training cannot be taken, or what it gave cannot be used."""


class CheckpointError(MeapError):
    """A checkpoint or exported model is missing, damaged or unsafe to load."""


class JudgeError(MeapError):
    """The language model that judges an evaluation cannot be asked, or would cost more than it may."""


class StoppedError(MeapError):
    """Training was asked to stop by a signal, and did so at a step that a checkpoint holds."""

    signal_number: int = signal.SIGTERM
    """What has asked."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for an error of ours that quotes it."""
    return next(iter(str(error).strip().splitlines()), "no message")
