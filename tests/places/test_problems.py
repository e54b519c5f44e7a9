"""What a store says becomes one error with the right remedy."""

import errno
import time
from email.utils import formatdate

import pytest
from botocore.exceptions import ClientError

from meap.data.unusable import explain
from meap.errors import DataError
from meap.places.problems import place_errors


@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "403"])
@pytest.mark.parametrize("hours", [-2, 2])
@pytest.mark.parametrize("is_translated", [True, False])
def test_clock_skew_is_not_told_as_wrong_credentials(code, hours, is_translated):
    date = formatdate(time.time() - 3600 * hours, usegmt=True)
    metadata = {"HTTPStatusCode": 403, "HTTPHeaders": {"date": date}}
    refused = ClientError({"Error": {"Code": code, "Message": "Forbidden"}, "ResponseMetadata": metadata}, "HeadObject")
    error: Exception = refused
    if is_translated:
        error = PermissionError("Forbidden")
        error.__cause__ = refused
    side = "ahead" if hours > 0 else "behind"
    with (
        pytest.raises(
            DataError, match=rf"clock differs from the store's by (1:59|2:00):\d\d \({side}\): set the clock"
        ) as told,
        place_errors("s3://corpus/mds"),
    ):
        raise error
    assert "check the permissions" not in str(told.value)
    assert "set the clock" in explain(error, 1)[1]


def test_a_refusal_by_a_store_of_the_same_time_is_of_credentials():
    metadata = {"HTTPStatusCode": 403, "HTTPHeaders": {"date": formatdate(usegmt=True)}}
    refused = ClientError({"Error": {"Code": "403"}, "ResponseMetadata": metadata}, "HeadObject")
    with pytest.raises(DataError, match="check the permissions"), place_errors("s3://corpus/mds"):
        raise PermissionError("Forbidden") from refused


def test_a_process_that_may_open_no_more_files_is_not_sent_to_the_storage():
    what, remedy = explain(OSError(errno.EMFILE, "Too many open files", "shard"), 4)
    assert what.startswith("could not be read in 4 attempts (")
    assert remedy.startswith("raise the number of open files with `ulimit -n 4096`")
    told = "cannot be used .Too many open files.: raise the number of open files"
    with pytest.raises(DataError, match=told), place_errors("disk/mds"):
        raise OSError(errno.EMFILE, "Too many open files", "index.json")
