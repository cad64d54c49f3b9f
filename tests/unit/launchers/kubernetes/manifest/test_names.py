"""Names in Kubernetes: valid for any task ID, unique, and convertible back to the job."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpuqueue.launchers.kubernetes.manifest.names import (
    LONGEST_NAME,
    RECORD,
    Instance,
    annotations_of,
    default_owner,
    finisher_name,
    identity_of,
    instance_of,
    job_name,
    label_value,
    labels,
    parse_instance,
    record_of,
    selector,
)
from gpuqueue.model.kube_syntax import is_dns_label, is_label_key, is_label_value, is_subdomain
from gpuqueue.model.names import delivery_name
from gpuqueue.model.record import Record

# The rules of Kubernetes, written independently.
DNS_LABEL = re.compile(r"\A[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
LABEL_VALUE = re.compile(r"\A[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")

# Any text that JSON can carry, halves of surrogate pairs included: senders choose the task ID.
anything = st.text(st.characters(), min_size=1, max_size=512)
tokens = st.text("0123456789abcdef", min_size=1, max_size=32)


def record(
    job_id: str = "a",
    retries: int = 0,
    attempt: int = 1,
    token: str = "t",
    gpu_class: str = "t4",
    **more: Any,
) -> Record:
    made: Any = {
        "id": job_id,
        "delivery": delivery_name(job_id, retries),
        "gpu_class": gpu_class,
        "isolation": "shared",
        "attempt": attempt,
        "token": token,
        "task": "shop.train",
        **({"retries": retries} if retries else {}),
        **more,
    }
    return made  # type: ignore[no-any-return]


READABLE = {
    "a UUID, cut": (
        "0b6e7cba-4dd2-4c1b-9a2f-5c9f0e1d2a3b",
        r"gpu-0b6e7cba-4dd2-4c1b-9-[a-z2-7]{20}-1",
    ),
    "capital letters and dots": ("Shop.Train/42", r"gpu-shop-train-42-[a-z2-7]{20}-1"),
    "a cut that would end with a hyphen": (
        "a" * 19 + "-" + "b",
        rf"gpu-{'a' * 19}-[a-z2-7]{{20}}-1",
    ),
    "no readable character": ("作業/№", r"gpu-[a-z2-7]{20}-1"),
    "white space and a newline": (" \n ", r"gpu-[a-z2-7]{20}-1"),
}


@pytest.mark.parametrize(("job_id", "name"), READABLE.values(), ids=READABLE)
def test_job_name_is_readable(job_id: str, name: str) -> None:
    assert re.fullmatch(name, job_name("o", record(job_id)))


@given(job_id=anything, attempt=st.integers(1, 10**9), owner=anything, token=tokens)
@example(job_id="\0", attempt=1, owner="o", token="t")
@example(job_id="\ud800", attempt=1, owner="o", token="t")
@example(job_id="x" * 512, attempt=10**9, owner="o" * 63, token="t")
def test_job_name_is_valid_and_leaves_room_for_pod_names(
    job_id: str, attempt: int, owner: str, token: str
) -> None:
    each = record(job_id, attempt=attempt, token=token)
    for name in (job_name(owner, each), finisher_name(owner, each, "f")):
        assert DNS_LABEL.match(name)
        assert len(name) <= LONGEST_NAME


# Few letters, so that names are similar: IDs that look like retries of other jobs, classes with the
# same prefix.
near = st.tuples(
    st.text("a~1/-", min_size=1, max_size=4),
    st.integers(0, 2),
    st.integers(1, 3),
    st.text("ab", min_size=1, max_size=2),
    st.text("t4-", min_size=1, max_size=2),
    st.text("o1-", min_size=1, max_size=2),
)


@given(one=near, other=near)
def test_two_attempts_have_different_job_names(
    one: tuple[Any, ...], other: tuple[Any, ...]
) -> None:
    (*first, owner), (*second, other_owner) = one, other
    assert (job_name(owner, record(*first)) == job_name(other_owner, record(*second))) == (
        one == other
    )


@given(
    one=near, other=near, finishers=st.tuples(st.text("f1", max_size=2), st.text("f1", max_size=2))
)
def test_two_finishers_have_different_job_names(
    one: tuple[Any, ...], other: tuple[Any, ...], finishers: tuple[str, str]
) -> None:
    (*first, owner), (*second, other_owner) = one, other
    same = finisher_name(owner, record(*first), finishers[0]) == finisher_name(
        other_owner, record(*second), finishers[1]
    )
    assert same == ((one, finishers[0]) == (other, finishers[1]))


def test_repeated_launch_gets_the_same_name() -> None:
    assert job_name("o", record("a", task="x")) == job_name(
        "o", record("a", task="x", launched=3.0, instance="seen")
    )


# -- labels ----------------------------------------------------------------------------------------


@given(anything)
@example("")
@example("x" * 64)
@example("-a-")
@example("ⅷ")
def test_any_text_becomes_a_valid_label_value(text: str) -> None:
    assert LABEL_VALUE.match(label_value(text))
    assert is_label_value(label_value(text))


@given(st.from_regex(LABEL_VALUE, alphabet=st.characters(codec="ascii")))
def test_valid_label_value_stays_unchanged(text: str) -> None:
    made = re.search(r"(^|\.)[a-z2-7]{20}$", text)  # it looks like slug and hash
    assert label_value(text) == text or made


def test_text_that_looks_like_a_hash_gets_its_own_hash() -> None:
    made = label_value("a/b")
    assert re.fullmatch(r"a-b\.[a-z2-7]{20}", made)
    assert label_value(made) != made


@given(one=st.text("aA/-. ", max_size=5), other=st.text("aA/-. ", max_size=5))
def test_two_texts_have_different_label_values(one: str, other: str) -> None:
    assert (label_value(one) == label_value(other)) == (one == other)


def test_labels_of_an_attempt() -> None:
    assert labels(
        "prod", "attempt", record("a/b", attempt=2, gpu_class="mig-1g.5gb+me", tenant="vision")
    ) == {
        "app.kubernetes.io/name": "gpu-executor",
        "app.kubernetes.io/managed-by": "gpuqueue",
        "gpuqueue.io/owner": "prod",
        "gpuqueue.io/role": "attempt",
        "gpuqueue.io/job": label_value("a/b"),
        "gpuqueue.io/attempt": "2",
        "gpuqueue.io/class": label_value("mig-1g.5gb+me"),
        "gpuqueue.io/isolation": "shared",
        "gpuqueue.io/tenant": "vision",
    }


def test_job_without_a_tenant_has_no_tenant_label() -> None:
    assert "gpuqueue.io/tenant" not in labels("prod", "attempt", record())


def test_selector_matches_owner_and_role() -> None:
    assert selector("prod") == "app.kubernetes.io/managed-by=gpuqueue,gpuqueue.io/owner=prod"
    assert selector("prod", "finisher") == f"{selector('prod')},gpuqueue.io/role=finisher"


VALID = {
    "a namespace": (
        is_dns_label,
        ["a", "a-1", "x" * 63],
        ["", "-a", "a-", "A", "a.b", "x" * 64, "a\n", None, 7],
    ),
    "the name of a Secret": (
        is_subdomain,
        ["a", "a.b-c"],
        ["", "a..b", ".a", "A", "a_b", "a" * 254, "a\n", None],
    ),
    "a label value": (
        is_label_value,
        ["a", "A_b.c-1"],
        ["", "_a", "a.", "ä", "x" * 64, "a\n", None, True],
    ),
    "a label key": (
        is_label_key,
        ["a", "x.y/A_b", "nvidia.com/gpu"],
        ["", "/a", "x/", "X/a", "a/b/c", "a b", None],
    ),
}


@pytest.mark.parametrize(("check", "good", "bad"), VALID.values(), ids=VALID)
def test_kubernetes_accepts_name(check: Any, good: list[Any], bad: list[Any]) -> None:
    assert [text for text in good if not check(text)] == []
    assert [text for text in bad if check(text)] == []


# -- the annotation --------------------------------------------------------------------------------


def test_annotation_contains_only_the_fields_for_adoption() -> None:
    kept: dict[str, Any] = {
        "time_limit": 60.0,
        "name": "train",
        "tenant": "vision",
        "nesting": 2,
        "image": "x:1",
    }
    full = record(
        "a", 1, **kept, state="running", device=3, container={"command": ["x"]}, created=1.0
    )
    found = json.loads(annotations_of("prod", full)[RECORD])
    assert found == {**record("a", 1), **kept, "owner": "prod", "container": True}


@given(job_id=anything, task=anything, token=tokens, limit=st.none() | st.floats(0.001, 1e9))
def test_annotation_round_trips_for_any_job(
    job_id: str, task: str, token: str, limit: float | None
) -> None:
    limited: dict[str, Any] = {"time_limit": limit} if limit is not None else {}
    kept = record(job_id, token=token, task=task, **limited)
    text = annotations_of("prod", kept)
    assert text[RECORD].isascii()
    assert record_of(json.loads(json.dumps(text))) == {**kept, "owner": "prod"}


SPOILED = {
    "nothing": {},
    "invalid JSON": {RECORD: "{"},
    "not an object": {RECORD: "[]"},
    "a record without its token": {
        RECORD: json.dumps({key: value for key, value in record().items() if key != "token"})
    },
    "text for the attempt": {RECORD: json.dumps({**record(), "attempt": "one"})},
    "text for the time limit": {RECORD: json.dumps({**record(), "time_limit": "long"})},
}


@pytest.mark.parametrize("found", SPOILED.values(), ids=SPOILED)
def test_invalid_annotation_gives_no_record(found: dict[str, str]) -> None:
    assert record_of(found) is None


# -- instances and owners --------------------------------------------------------------------------


def test_instance_names_job_and_pod() -> None:
    assert instance_of("gpu", "gpu-a-1") == "gpu/gpu-a-1"
    assert instance_of("gpu", "gpu-a-1", "uid") == "gpu/gpu-a-1/uid"
    assert parse_instance("gpu/gpu-a-1") == Instance("gpu", "gpu-a-1", "")
    assert parse_instance("gpu/gpu-a-1/uid") == Instance("gpu", "gpu-a-1", "uid")


@pytest.mark.parametrize("instance", ["", "host:0f3a:812", "gpu", "gpu/", "/gpu-a-1", "a/b/c/d"])
def test_other_text_is_not_a_kubernetes_instance(instance: str) -> None:
    assert parse_instance(instance) is None


IDENTITIES = {
    "default port and database": ("redis://r", "r:6379/0"),
    "another port and database": ("redis://r:1/2", "r:1/2"),
    "a database as an option": ("redis://r?db=2", "r:6379/2"),
    "a password": ("redis://:secret@R/0", "r:6379/0"),
    "a user and a password with an @": (
        "rediss://me:s%40e@cret@r:6379/0?ssl_cert_reqs=none",
        "r:6379/0",
    ),
    "IPv6": ("redis://[::1]/1", "[::1]:6379/1"),
    "IPv6 and a port": ("redis://[::1]:7/1", "[::1]:7/1"),
    "a missing host": ("redis:///3", "localhost:6379/3"),
    "a socket": ("unix:///run/redis.sock?db=2", "/run/redis.sock/2"),
    "a socket for Celery": (
        "redis+socket://:secret@/run/redis.sock?virtual_host=2",
        "/run/redis.sock/2",
    ),
}


@pytest.mark.parametrize(("url", "identity"), IDENTITIES.values(), ids=IDENTITIES)
def test_redis_identity_ignores_user_password_and_tls(url: str, identity: str) -> None:
    assert identity_of(url) == identity


def test_owner_depends_on_queue_namespace_and_cluster() -> None:
    mine = default_owner("gpu-jobs", "cluster-1", "redis://me:secret@r")
    assert re.fullmatch(r"gpu-jobs-[0-9a-f]{10}", mine)
    assert default_owner("gpu-jobs", "cluster-1", "rediss://you:other@r:6379/0") == mine
    others = [
        default_owner("gpu-tests", "cluster-1", "redis://r"),
        default_owner("gpu-jobs", "cluster-2", "redis://r"),
        default_owner("gpu-jobs", "cluster-1", "redis://r/1"),
    ]
    assert len({mine, *others}) == 4


@pytest.mark.parametrize(
    "namespace", ["x" * 63, "x" * 51 + "-" + "y" * 11], ids=["the longest", "cut at a hyphen"]
)
def test_owner_of_a_long_namespace_is_a_valid_label_value(namespace: str) -> None:
    assert LABEL_VALUE.match(default_owner(namespace, "c", "redis://r"))
