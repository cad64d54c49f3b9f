"""The doctor's check of what executors have told of their application."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.model.profile import Profile, are_learnt, differences


def profiles(
    name: str, found: Mapping[str, Profile], own: Profile, told: Collection[str]
) -> Iterator[Check]:
    """Check that applications and dispatchers name the broker's lists and channels alike.

    Args:
        name: the application.
        found: image → its profile there; empty: that of the class.
        own: the profile of dispatchers.
        told: what the operator has set, which dispatchers do not learn.
    """
    ours = own.broker()
    for image, profile in sorted(found.items()):
        whose = f"{name} in {image}" if image else name
        differ = differences(profile, ours)
        if not image and are_learnt(differ, told):
            ours = profile.broker()  # dispatchers have learnt it
            differ = []
        for each in differ:
            saw, _, fix = each.shown(whose).rpartition("; ")
            yield Check("profile", Level.FAIL, saw, fix)
        if not differ:
            who = "" if profile.has_results_of(own) else ", which it writes all itself"
            results = f"results in {profile.shown} ({profile.serializer}){who}"
            yield Check("profile", Level.OK, f"{whose}: {results}")
