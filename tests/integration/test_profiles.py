"""What executors tell of their application, as dispatchers read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from gpuqueue.cli.view.state import open_state
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.glue.profile import profile_of
from gpuqueue.store import profiles
from gpuqueue.store.keys import class_key
from gpuqueue.store.profiles import Profiles
from tests.support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    path: Path = tmp_path_factory.mktemp("redis")
    with (
        EmbeddedRedis(path) as here,
        redis.Redis.from_url(here.url, decode_responses=True) as client,
    ):
        yield client


@pytest.fixture
def client(server: redis.Redis) -> redis.Redis:
    server.flushdb()
    return server


def test_the_newest_profile_counts_in_whichever_class_it_was_told(client: redis.Redis) -> None:
    both = Profiles(client, ["t4", "a100"])
    Profiles(client, ["t4"]).keep("shop", "", {"steps": [0], "expires": None})
    Profiles(client, ["a100"]).keep("shop", "", {"steps": [1]})
    Profiles(client, ["t4"]).keep("other", "", {"steps": [2]})
    Profiles(client, ["t4"]).keep("shop", "shop@sha256:1", {"steps": [3]})
    assert both.of("shop") == {"": {"steps": [1]}, "shop@sha256:1": {"steps": [3]}}
    Profiles(client, ["t4"]).keep("shop", "", {"steps": [0], "expires": None})
    assert both.of("shop")[""] == {"steps": [0], "expires": None}


def test_without_a_name_the_newest_profile_of_any_application_counts(client: redis.Redis) -> None:
    told = Profiles(client, ["t4"])
    told.keep("shop", "", {"steps": [0]})
    told.keep("other", "", {"steps": [1]})
    assert told.of(None) == {"": {"steps": [1]}}


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"at": "x", "profile": 7}', '{"at": 1}'])
def test_a_damaged_profile_is_none(client: redis.Redis, text: str) -> None:
    client.hset(class_key("t4", "profiles"), "shop", text)
    assert Profiles(client, ["t4"]).of("shop") == {}


def test_the_oldest_of_too_many_images_are_forgotten(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "MOST", 2)
    told = Profiles(client, ["t4"])
    for image in "cab":
        before = client.time()
        told.keep("shop", image, {"steps": [0]})
        until(lambda before=before: client.time() > before)  # type: ignore[misc]
    told.of("shop")
    assert set(told.of("shop")) == {"a", "b"}


def test_status_counts_messages_in_the_lists_of_each_known_application(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = client.connection_pool.connection_kwargs
    url = f"redis://{where['host']}:{where['port']}/0" if "host" in where else ""
    monkeypatch.setenv("CELERY_BROKER_URL", url or f"redis+socket://{where['path']}")
    for name in ("", "\x06\x163", ":7", ":x"):
        client.lpush(f"gpu.t4.shared{name}", "{}")
    state = open_state()
    assert state.unaccepted(["t4"]) == {"gpu.t4.shared": 2}, "of the settings"
    app = Celery("shop", set_as_current=False)
    app.conf.broker_transport_options = {"priority_steps": [0, 7], "sep": ":"}
    Profiles(client, ["t4"]).keep("shop", "", profile_of(app).described())
    assert state.unaccepted(["t4"]) == {"gpu.t4.shared": 3}
    state.client.close()
