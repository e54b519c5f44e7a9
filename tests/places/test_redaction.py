"""What is kept of a command line holds no secrets."""

import pytest

from meap.places.addresses import without_file_scheme
from meap.places.redaction import clean_arguments


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("masking.ratio=0.2", "masking.ratio=0.2"),
        ("train.max_duration=200tok", "train.max_duration=200tok"),
        ("tracker.api_key=hunter2", "tracker.api_key=***"),
        ("HF_TOKEN=hunter2", "HF_TOKEN=***"),
        ("data.remote=s3://me:hunter2@bucket/c4", "data.remote=s3://***@bucket/c4"),
        ("data.remote=https://host/c4?sig=hunter2", "data.remote=https://host/c4?***"),
        ("https://me:hunter2@host/run.yaml", "https://***@host/run.yaml"),
    ],
)
def test_secrets_on_the_command_line_are_not_kept(given, kept):
    assert clean_arguments(["recipe.py", given]) == ["recipe.py", kept]


@pytest.mark.parametrize(
    ("given", "read"), [("file:///data/c4", "/data/c4"), ("data/c4", "data/c4"), ("s3://b/c4", "s3://b/c4")]
)
def test_a_file_url_is_a_local_path(given, read):
    assert without_file_scheme(given) == read
