"""The call of a container job: its parsed arguments, and its errors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuqueue.errors import InvalidJob
from gpuqueue.model.container import ARGUMENTS, LARGEST, parse_container


def test_empty_arguments_are_dropped() -> None:
    arguments = {
        "command": ["nvidia-smi", "-L"],
        "args": [],
        "env": {"STEPS": 100, "RATE": 0.5},
        "working_dir": "/data",
    }
    image, kept = parse_container(["cuda:12"], arguments)
    assert image == "cuda:12"
    assert kept == {
        "command": ["nvidia-smi", "-L"],
        "env": {"STEPS": "100", "RATE": "0.5"},
        "working_dir": "/data",
    }


def test_arguments_can_be_positional() -> None:
    assert parse_container(["a:1", ["x"], ["y"], {"N": "1"}, "/d"], {}) == (
        "a:1",
        {"command": ["x"], "args": ["y"], "env": {"N": "1"}, "working_dir": "/d"},
    )


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ([], {}, "gpuqueue.run image=None is not an image reference; use e.g. registry/name:tag"),
        ([], {"image": "two words"}, "gpuqueue.run image='two words' is not an image reference"),
        (["a:1"], {"image": "b:1"}, "gpuqueue.run image='b:1' is given twice"),
        (["a:1"], {"gpus": 2}, f"gpuqueue.run gpus=2 is unknown; known: {', '.join(ARGUMENTS)}"),
        (
            ["a:1", "nvidia-smi -L"],
            {},
            "gpuqueue.run command='nvidia-smi -L' is a string; use a list of words",
        ),
        (["a:1", [1]], {}, "gpuqueue.run command=[1] is not a list of strings"),
        (["a:1"], {"env": ["N=1"]}, "gpuqueue.run env=['N=1'] is not an object"),
        (["a:1"], {"env": {"a b": "1"}}, "gpuqueue.run env='a b' is not a valid variable name"),
        (
            ["a:1"],
            {"env": {"GPUQUEUE_TOKEN": "1"}},
            "gpuqueue.run env='GPUQUEUE_TOKEN' is not a valid variable name",
        ),
        (["a:1"], {"env": {"NVIDIA_VISIBLE_DEVICES": "all"}}, "would expose every GPU of the node"),
        (["a:1"], {"env": {"N": True}}, "gpuqueue.run env.N=True is not a string or number"),
        (["a:1"], {"env": {"N": "\udce9"}}, "gpuqueue.run env.N='\\udce9' is not a string or"),
        (["a:1", ["\udce9"]], {}, "gpuqueue.run command=['\\udce9'] is not a list of strings"),
        (
            ["a:1"],
            {"working_dir": "data"},
            "gpuqueue.run working_dir='data' is not an absolute path",
        ),
        (["a:1", ["x" * LARGEST]], {}, f"are more than {LARGEST} bytes"),
        (["a:1", [], [], {}, "/d", "more"], {}, "are more than 5 arguments"),
    ],
)
def test_invalid_call_is_refused_with_field_value_and_fix(
    args: list[Any], kwargs: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidJob) as caught:
        parse_container(args, kwargs)
    assert words in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=6), st.dictionaries(st.sampled_from([*ARGUMENTS, "other"]), JSON))
def test_any_json_is_accepted_or_refused_as_invalid_job(
    args: list[Any], kwargs: dict[str, Any]
) -> None:
    try:
        image, kept = parse_container(args, kwargs)
    except InvalidJob:
        return
    assert image and set(kept) <= set(ARGUMENTS)
