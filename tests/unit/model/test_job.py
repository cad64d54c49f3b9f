"""What a job says of itself: the ``gpu`` header, memory, and the record that is kept."""

from __future__ import annotations

from typing import Any

import pytest

from gpuqueue.errors import InvalidJob
from gpuqueue.model.job import Job
from gpuqueue.model.names import check_class_name
from gpuqueue.model.request import GpuRequest, parse_memory

AMOUNTS = {
    "bytes": (2**20, 2**20),
    "bytes as text": ("1048576", 2**20),
    "GiB": ("9GiB", 9 * 2**30),
    "GB": ("16GB", 16 * 10**9),
    "Mi, as Kubernetes writes it": ("512Mi", 512 * 2**20),
    "a fraction": ("1.5G", 1_500_000_000),
    "small letters and spaces": (" 2 gib ", 2 * 2**30),
    "plain B": ("7000000B", 7_000_000),
}
NO_AMOUNTS = {
    "a word": "much",
    "nothing": "0GiB",
    "negative": -1,
    "a truth": True,
    "an unknown unit": "3PiB",
    "an i without a unit": "3i",
    "a float": 1.5,
    "none": None,
}
HEADERS: dict[str, tuple[object, str]] = {
    "is no object": ("t4", "gpu='t4' is not an object; send e.g."),
    "has an unknown field": (
        {"memroy": "9GiB"},
        "gpu.memroy='9GiB' is unknown; known fields: isolation, memory, slices, gpus, tenant,"
        " image, reuse",
    ),
    "has an unknown isolation": (
        {"isolation": "solo"},
        "gpu.isolation='solo' is unknown; use shared or exclusive",
    ),
    "has too many slices": (
        {"slices": 8},
        "gpu.slices=8 is not a number of MIG slices; use 1 to 7",
    ),
    "has a true slice": (
        {"slices": True},
        "gpu.slices=True is not a number of MIG slices; use 1 to 7",
    ),
    "has no GPU": ({"gpus": 0}, "gpu.gpus=0 is not a number of GPUs; use 1 to 64"),
    "has too many GPUs": ({"gpus": 65}, "gpu.gpus=65 is not a number of GPUs; use 1 to 64"),
    "has a true GPU": ({"gpus": True}, "gpu.gpus=True is not a number of GPUs; use 1 to 64"),
    "has half a GPU": ({"gpus": 1.5}, "gpu.gpus=1.5 is not a number of GPUs; use 1 to 64"),
    "shares several GPUs": (
        {"gpus": 2, "isolation": "shared"},
        "gpu.gpus=2 needs GPUs that no other job shares; set isolation='exclusive', or gpus=1",
    ),
    "has no tenant": ({"tenant": "a b"}, "gpu.tenant='a b' cannot name a tenant; use up to 63"),
    "has too long a tenant": ({"tenant": "x" * 64}, "cannot name a tenant"),
    "has no image": (
        {"image": "my image"},
        "gpu.image='my image' is not an image reference; use e.g. registry/name:tag",
    ),
    "has an amount without its unit": (
        {"memory": "9"},
        "gpu.memory='9' is below 1 MiB; write bytes, or a number with KiB, MiB, GiB",
    ),
    "has a number without its unit": ({"memory": 9}, "gpu.memory=9 is below 1 MiB; write bytes"),
    "has digits of another script": ({"memory": "٩GiB"}, "is not an amount of memory"),
    "has no amount": (
        {"memory": "lots"},
        "gpu.memory='lots' is not an amount of memory; write bytes, or a number with KiB",
    ),
}


@pytest.mark.parametrize(("said", "amount"), AMOUNTS.values(), ids=AMOUNTS)
def test_memory_is_read_from(said: object, amount: int) -> None:
    assert parse_memory(said) == amount


@pytest.mark.parametrize("said", NO_AMOUNTS.values(), ids=NO_AMOUNTS)
def test_no_memory_is(said: object) -> None:
    with pytest.raises(
        InvalidJob, match=r"^gpu\.memory=.* is not an amount of memory; write bytes"
    ):
        parse_memory(said)


@pytest.mark.parametrize(("header", "text"), HEADERS.values(), ids=HEADERS)
def test_the_error_names_field_value_and_fix_of_a_header_that(header: object, text: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        GpuRequest.parse(header)
    assert text in str(caught.value)


def test_a_header_survives_a_round_trip() -> None:
    said: dict[str, Any] = {
        "isolation": "shared",
        "memory": 9 * 2**30,
        "slices": 2,
        "gpus": 1,
        "tenant": "vision",
        "image": "r/n:1",
    }
    assert GpuRequest.parse(said).header() == said
    assert GpuRequest.parse(None).header() == {}


@pytest.mark.parametrize("name", ["", "T4", "-t4", "t4-", "a" * 51, 7, None])
def test_a_class_cannot_be_called(name: object) -> None:
    with pytest.raises(InvalidJob, match="cannot name a class"):
        check_class_name(name)


def test_a_record_keeps_given_fields_and_omits_empty_ones() -> None:
    job = Job("a", "shop.train", "t4", "shared", retries=2, priority=0)
    assert job.record() == {
        "delivery": "a~2",
        "id": "a",
        "task": "shop.train",
        "gpu_class": "t4",
        "isolation": "shared",
        "retries": 2,
    }
