"""The doctor compares what executors have told of their application with its dispatchers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuqueue.cli.checks.check import Level
from gpuqueue.cli.checks.profiles import profiles
from gpuqueue.model.profile import Profile, place_of

OWN = Profile((0, 3, 6, 9), ":", "", place_of("redis://localhost/0", ""), "redis://h/0", "json")


def said(*told: str, **found: Profile) -> list[tuple[Level, str, str]]:
    named = {"" if image == "usual" else image: each for image, each in found.items()}
    return [(each.level, each.saw, each.fix) for each in profiles("shop", named, OWN, told)]


def test_nothing_is_said_of_an_application_that_has_not_run() -> None:
    assert said() == []


def test_what_dispatchers_learn_is_well() -> None:
    learnt = replace(OWN, steps=(0, 1), control="theirs")
    assert said(usual=learnt, other=learnt) == [
        (Level.OK, "shop: results in redis://h/0 (json)", ""),
        (Level.OK, "shop in other: results in redis://h/0 (json)", ""),
    ]


@pytest.mark.parametrize(
    ("told", "profile", "words", "setting"),
    [
        ("sep", replace(OWN, separator="-"), 'sep="-"', "GPUQUEUE_BROKER_TRANSPORT_OPTIONS"),
        ("event_exchange", replace(OWN, events="e"), "event_exchange", "GPUQUEUE_EVENT_EXCHANGE"),
        ("", replace(OWN, prefix="p:"), "global_keyprefix", "GPUQUEUE_BROKER_TRANSPORT_OPTIONS"),
    ],
)
def test_what_dispatchers_cannot_learn_is_a_failure_that_names_both(
    told: str, profile: Profile, words: str, setting: str
) -> None:
    [(level, saw, fix)] = said(told, usual=profile)
    assert level is Level.FAIL
    assert f"shop has {words}" in saw and "and dispatchers have" in saw
    assert fix == f"set {setting} to what the application has"


def test_an_image_with_other_names_fails_and_other_results_are_well() -> None:
    found = said(usual=OWN, late=replace(OWN, control="c"), other=replace(OWN, backend="x"))
    assert [level for level, *_ in found] == [Level.OK, Level.FAIL, Level.OK]
    assert found[2][1].endswith(", which it writes all itself")
