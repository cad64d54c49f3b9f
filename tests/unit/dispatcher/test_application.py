"""What a dispatcher learns of its application."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery

from gpuqueue.dispatcher.application import Application
from gpuqueue.glue import profile as profiles
from gpuqueue.glue.profile import profile_of
from gpuqueue.model.profile import Profile, place_of, places_of

OWN = Profile((0, 3, 6, 9), ":", "", place_of("redis://localhost/0", ""), "redis", "json")


class Told:
    """What executors have told, without Redis."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}

    def keep(self, application: str, image: str, described: Any) -> None:
        assert application == "shop"
        self.kept[image] = dict(described)

    def of(self, application: str | None) -> dict[str, Any]:
        assert application == "shop"
        return dict(self.kept)


class Learning:
    """An application that is learnt, and how often messages are taken from other lists."""

    def __init__(self, *told: str) -> None:
        self.profiles = Told()
        self.app = Celery("dispatcher", broker="memory://", set_as_current=False)
        self.app.conf.broker_transport_options = {"visibility_timeout": 60}
        self.again = 0
        profiles: Any = self.profiles
        self.known = Application(self.app, OWN, "shop", frozenset(told), profiles, self._again)

    def _again(self) -> None:
        self.again += 1

    @property
    def options(self) -> dict[str, object]:
        return dict(self.app.conf.broker_transport_options)


def test_lists_are_those_that_the_application_named_last() -> None:
    learning = Learning()
    learning.known.learn(replace(OWN, steps=(0, 1), separator="-"))
    learning.known.learn(replace(OWN, steps=(0, 1), separator="-"))
    expected = {"visibility_timeout": 60, "priority_steps": [0, 1], "sep": "-"}
    assert (learning.options, learning.again) == (expected, 1)
    learning.known.learn(OWN)
    assert learning.options == expected | {"priority_steps": [0, 3, 6, 9], "sep": ":"}
    assert learning.again == 2


@pytest.mark.parametrize("told", ["sep", "priority_steps", ""])
def test_what_the_operator_said_otherwise_is_an_error(
    told: str, caplog: pytest.LogCaptureFixture
) -> None:
    learning = Learning(*([told] if told else []))
    other = replace(OWN, steps=(0, 1), separator="-")
    with caplog.at_level(logging.ERROR):
        learning.known.learn(other if told else replace(OWN, prefix="theirs"))
    assert "set GPUQUEUE_BROKER_TRANSPORT_OPTIONS to what the application has" in caplog.text
    assert (learning.options, learning.again) == ({"visibility_timeout": 60}, 0)


def declared() -> None:
    pass


def test_limits_of_tasks_are_those_of_the_image_that_a_job_asks_for() -> None:
    shop = Celery("shop", set_as_current=False)
    shop.conf.task_time_limit = 50
    shop.task(shared=False, name="train", time_limit=7)(declared)
    shop.task(shared=False, name="serve")(declared)
    learning = Learning()
    limit_of = learning.known.limit_of
    assert limit_of("train") is None
    learning.profiles.keep("shop", "", profile_of(shop).described())
    learning.profiles.keep("shop", "shop:old", OWN.described())
    learning.known.look()
    assert (limit_of("train"), limit_of("serve")) == (7.0, 50.0)
    assert limit_of("train", "shop:new") is limit_of("train", "shop:old") is None
    learning.known.learn(replace(OWN, time_limits={}))
    assert limit_of("train") == 0.0, "it declares none"


def test_results_have_the_form_that_the_image_of_the_class_sets() -> None:
    shop, learning = Celery("shop", set_as_current=False), Learning()
    shop.conf.result_extended = shop.conf.task_store_errors_even_if_ignored = True
    learning.profiles.keep("shop", "", profile_of(shop).described())
    learning.profiles.keep("shop", "shop:old", OWN.described())
    learning.known.look()
    conf = learning.app.conf
    assert conf.result_extended is conf.task_store_errors_even_if_ignored is True
    learning.known.learn(OWN)
    assert conf.result_extended is conf.task_store_errors_even_if_ignored is False


def test_more_limits_than_a_profile_may_have_are_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiles, "MOST_LIMITS", 1)
    shop = Celery("shop", set_as_current=False)
    shop.task(shared=False, name="one", time_limit=1)(declared)
    assert profile_of(shop).limit_of("one") == 1.0
    shop.task(shared=False, name="two", time_limit=2)(declared)
    assert profile_of(shop).limit_of("one") is profile_of(shop).limit_of("any") is None


def test_results_elsewhere_are_the_application_s_to_write() -> None:
    learning = Learning()
    seen = [learning.known.has_our_results()]
    for profile in (replace(OWN, serializer="pickle"), OWN, replace(OWN, backend="other")):
        learning.known.learn(profile)
        seen.append(learning.known.has_our_results())
    assert seen == [None, False, True, False]


def test_a_backend_that_an_operator_set_is_the_application_s() -> None:
    known = Learning("result_backend").known
    assert known.has_our_results() is True
    assert known.reads_our_results() is None, "no address says how results are written"


def test_what_executors_told_is_learnt_and_what_a_runner_told_is_passed_on() -> None:
    learning = Learning()
    learning.known.learn(replace(OWN, control="theirs"))
    assert learning.app.conf.control_exchange == "theirs"
    assert learning.app.control.mailbox.namespace == "theirs"
    learning.known.look()
    assert learning.profiles.kept[""]["control"] == "theirs"
    learning.profiles.keep("shop", "", replace(OWN, events="theirs").described())
    learning.known.look()
    conf = learning.app.conf
    assert (conf.control_exchange, conf.event_exchange) == ("celery", "theirs")
    assert learning.again == 2


def test_a_job_s_own_image_counts_for_its_results_and_names_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    learning = Learning()
    learning.profiles.keep("shop", "shop:2", replace(OWN, backend="x", events="theirs").described())
    with caplog.at_level(logging.ERROR):
        learning.known.look()
    known = learning.known
    assert [known.has_our_results(each) for each in (None, "shop:2", "shop:3")] == [
        None,
        False,
        None,
    ]
    assert (
        'shop in shop:2 has event_exchange="theirs", and dispatchers have "celeryev"' in caplog.text
    )
    assert (learning.app.conf.event_exchange, learning.again) == ("celeryev", 0)


def test_an_application_that_tells_nothing_has_the_results_of_dispatchers() -> None:
    learning = Learning()
    learning.known.asked("shop:1")
    known = learning.known
    assert [known.has_our_results(each) for each in ("shop:1", None)] == [True, None]
    learning.profiles.keep("shop", "shop:2", replace(OWN, backend="elsewhere").described())
    learning.known.asked("shop:2")
    assert known.has_our_results("shop:2") is False


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://localhost:6379/0", "redis://127.0.0.1"),
        ("redis://:secret@h:6379/0", "redis://user:other@h/0"),
        ("redis+socket:///run/redis.sock", "redis+socket:///run/redis.sock"),
        (None, "disabled://"),
    ],
)
def test_a_place_is_known_in_any_spelling(one: str | None, other: str) -> None:
    assert place_of(one, "") == place_of(other, "")
    assert place_of(one, "") != place_of("redis://h/1", "")
    assert place_of(one, "") != place_of(other, "prefix")


@pytest.mark.parametrize(
    ("executor", "broker", "told", "same"),
    [
        ("redis://executor:a@pods/0", "redis://executor:a@pods/0", None, True),
        ("redis://executor:a@pods/1", "redis://executor:a@pods/0", None, False),
        ("redis://executor:a@results/0", "redis://executor:a@pods/0", None, False),
        ("redis://executor:a@results/0", "redis://executor:a@pods/0", "the same", True),
        ("db+sqlite:///results.db", "redis://pods/0", None, False),
    ],
)
def test_one_redis_is_known_by_two_addresses(
    executor: str, broker: str, told: str | None, same: bool
) -> None:
    """A dispatcher and a pod may reach it by a gateway and by a Service."""

    def profile(backend: str, broker: str, told: str | None) -> Profile:
        also = places_of(backend, "", broker, told)
        return replace(OWN, backend=place_of(backend, ""), also=also)

    gateway = "redis://dispatcher:b@gateway:6380"
    ours = profile(f"{gateway}/0", gateway, f"{gateway}/0" if told else None)
    theirs = profile(executor, broker, executor if told else None)
    assert theirs.has_results_of(ours) is same
    assert Profile.parse(theirs.described()) == theirs


def test_a_profile_of_another_version_has_the_defaults_of_what_it_lacks() -> None:
    assert Profile.parse(OWN.described()) == OWN
    older = {name: each for name, each in OWN.described().items() if name != "control"}
    assert Profile.parse({**older, "later": 1}) == OWN


@pytest.mark.parametrize("found", [None, "text", {"steps": 7}, {"steps": [0]}])
def test_what_is_no_profile_is_none(found: object) -> None:
    assert Profile.parse(found) is None
