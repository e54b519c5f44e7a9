"""Every error this project raises for a user, in one tree.

    MeapError                 catch this to catch them all
    ├── ConfigError           a key or a value of the configuration (also a ValueError)
    │   └── MissingPackageError  a package that a key needs is not installed (also an ImportError)
    ├── DataError             raw text, shards or manifests that are missing, damaged or of another kind
    │   ├── BadInputError     a raw file or line that cannot be read
    │   ├── IncompleteError   a data set or run that is not finished
    │   └── MismatchError     two things that do not belong together (shards and tokenizer, say)
    ├── TrainingError         a training step that is not finite, runs out of memory, or loses a process
    ├── CheckpointError       a checkpoint or exported model that is missing, damaged or unsafe
    ├── JudgeError            the judge of an evaluation cannot be reached, or would exceed its budget
    └── StoppedError          a run that a signal stopped, with its state saved: not an error

A message names the value that was given, what is allowed, and what to do about it.
"""

__all__ = [
    "BadInputError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "IncompleteError",
    "JudgeError",
    "LostRankError",
    "MeapError",
    "MismatchError",
    "MissingPackageError",
    "StoppedError",
    "TrainingError",
    "first_line",
]


class MeapError(Exception):
    """Base of all errors raised for users of this project."""

    def __init__(self, message: str = "") -> None:
        # torch passes a loader worker's error on as one of its class, with the worker's traceback as its message.
        if message.startswith(f"Caught {type(self).__name__} "):
            message = message.rpartition(f"{type(self).__name__}: ")[2].rstrip()
        super().__init__(message)


class ConfigError(MeapError, ValueError):
    """A configuration key or value is not allowed."""


class MissingPackageError(ConfigError, ImportError):
    """A package that a key, or a part of this library, needs is not installed."""


class DataError(MeapError):
    """Raw text, shards or a manifest cannot be used."""


class BadInputError(DataError):
    """A raw file or a line in it cannot be read."""


class IncompleteError(DataError):
    """A data set is not finished, or lacks files."""


class MismatchError(DataError):
    """Two artefacts do not belong together, such as shards and a tokenizer."""


class TrainingError(MeapError):
    """A training step failed, or its result is not finite."""


class CheckpointError(MeapError):
    """A checkpoint or exported model is missing, damaged or unsafe to load."""


class JudgeError(MeapError):
    """The language model that judges an evaluation cannot be reached, or would exceed its budget."""


class LostRankError(MeapError):
    """Another rank ended, or stands still, while this one waited for it."""


class StoppedError(MeapError):
    """A signal stopped the program after it saved its state."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for an error that quotes it."""
    return next(iter(str(error).strip().splitlines()), "no message")
