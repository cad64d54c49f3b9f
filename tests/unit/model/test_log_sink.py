"""The address of the sink, and the names in it."""

from __future__ import annotations

import pytest

from gpuqueue.errors import SettingsError
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.log_sink import SinkAddress, object_name, parse_sink
from gpuqueue.settings.dispatcher import load


@pytest.mark.parametrize(
    ("text", "bucket", "path"),
    [
        ("/var/log/jobs/", "", "/var/log/jobs"),
        ("file:///var/log/my%20jobs", "", "/var/log/my jobs"),
        ("s3://logs", "logs", ""),
        ("s3://my.logs-1/team/a/", "my.logs-1", "team/a"),
    ],
)
def test_addresses(text: str, bucket: str, path: str) -> None:
    assert parse_sink(text) == SinkAddress(bucket, path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("logs", "is not an absolute directory; use /DIRECTORY, file:///DIRECTORY or s3://"),
        ("/", "is not an absolute directory"),
        ("file://host/dir", "is not an absolute directory"),
        ("gs://bucket/x", "has an unknown scheme; use /DIRECTORY"),
        ("s3://Logs/x", "'Logs' cannot name a bucket; use 3 to 63 lower-case"),
        ("s3:///x", "'' cannot name a bucket"),
        ("s3://logs/a//b", "'a//b' cannot be a prefix; use letters"),
        ("s3://logs/a?b=c", "cannot be a prefix"),
        ("s3://logs/a b", "'a b' cannot be a prefix"),
        ("s3://key:secret@logs/x", "has credentials; set AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_wrong_address_is_refused_with_its_setting(
    monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.setenv("GPUQUEUE_LOG_SINK", text)
    with pytest.raises(SettingsError) as found:
        load()
    assert "GPUQUEUE_LOG_SINK=" in str(found.value) and problem in str(found.value)
    assert "secret" not in str(found.value)


def test_names_are_those_of_files_for_every_delivery() -> None:
    at = 1_800_000_000.0
    assert object_name(Attempt("t4", "3f-a~1", 2), at) == "t4/2027-01-15/3f-a~1~2"
    odd = [
        object_name(Attempt("t4", each, 1), at) for each in ("../x", "a/b", "é" * 200, "a" * 300)
    ]
    for name in odd:
        assert name.count("/") == 2 and len(name.rpartition("/")[2]) < 200
        assert name.isascii()
    assert len(set(odd)) == 4
