"""The rules of tenants in Redis, and what tenants have. One copy decides: that in Redis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis

from gpuqueue.model.tenant import OTHERS, ClassRules, TenantRule, WrongRule
from gpuqueue.store.keys import class_key
from gpuqueue.store.scripts import Scripts

#: How many tenants one answer describes.
MOST = 64


class RulesChanged(Exception):
    """The rules of a class are others by now."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant of a class at one moment; the name of jobs without a tenant is empty."""

    name: str
    waiting: dict[str, int]
    """Isolation → jobs in line."""
    delayed: int
    running: dict[str, int]
    """Isolation → jobs that hold a slot."""
    gpu_seconds: float
    """All that it has used since the class knows it. A shared slot is a part of a GPU."""
    decayed: float
    """What of it still counts, in GPU-seconds."""
    limited: bool
    """Whether it runs as many jobs as it may."""


@dataclass(frozen=True, slots=True)
class TenantsView:
    """The tenants of a class at one moment."""

    epoch: int
    """Grows with each change of the rules."""
    half_life: float
    total: int
    """How many tenants there are; ``tenants`` may have fewer."""
    tenants: list[Tenant]
    rules: dict[str, TenantRule] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    """Tenant → who has set its rule: ``file`` or ``command``."""


class Tenants:
    """Reads and sets them."""

    def __init__(self, client: redis.Redis) -> None:
        self._scripts = Scripts(client)

    def of(self, gpu_class: str, most: int = MOST) -> TenantsView:
        """Return the tenants of a class: up to ``most``, those with jobs first."""
        answer = self._scripts.call("tenants", gpu_class, most=most)
        epoch, half_life, total, known, *found = answer
        rules, sources = _rules(dict(zip(known[::2], known[1::2], strict=True)))
        tenants = [
            Tenant(
                name,
                {"shared": waiting_shared, "exclusive": waiting_exclusive},
                delayed,
                {"shared": shared, "exclusive": exclusive},
                float(used),
                float(decayed),
                bool(limited),
            )
            for (
                name,
                waiting_shared,
                waiting_exclusive,
                delayed,
                shared,
                exclusive,
                used,
                decayed,
                limited,
            ) in found
        ]
        return TenantsView(epoch, float(half_life), total, tenants, rules, sources)

    def set(
        self,
        gpu_class: str,
        rules: Mapping[str, TenantRule | None],
        half_life: float | None = None,
        *,
        default_half_life: bool = False,
        epoch: int | None = None,
    ) -> bool:
        """Set the rules of some tenants in one step; None: it has none any more. Returns whether
        something has changed. ``default_half_life``: as if no half-life had been set. ``epoch``:
        that of the view that they follow from.

        Raises :class:`RulesChanged`, and sets nothing, if the rules are others by now.
        """
        seconds = False if default_half_life else half_life
        _, changed = self._scripts.call(
            "set_tenants",
            gpu_class,
            source="command",
            rules=_listed(rules),
            half_life=seconds,
            epoch=epoch,
        )
        if changed < 0:
            raise RulesChanged(gpu_class)
        return bool(changed)

    def follow(self, classes: Mapping[str, ClassRules], mark: str) -> list[Exception]:
        """Set what a file says, in one round trip, unless it was set before. ``mark`` stands for
        its content. What a command has set stays. Returns what failed.
        """
        calls = [
            (
                name,
                {
                    "source": "file",
                    "rules": _listed(each.rules),
                    "half_life": each.half_life,
                    "whole": mark,
                },
            )
            for name, each in classes.items()
        ]
        answers = self._scripts.each("set_tenants", calls)
        return [answer for answer in answers if isinstance(answer, Exception)]


class RulesOfFile:
    """The rules of one dispatcher's file. While it leads, they are those in Redis.

    Args:
        client: of the Redis that has the state.
        rules: by class.
        text: the text of the file; empty: there is none.
        classes: the classes that it speaks for, also where it has no rule.
    """

    def __init__(
        self,
        client: redis.Redis,
        rules: Mapping[str, ClassRules],
        text: str,
        classes: Sequence[str],
    ) -> None:
        self._client, self._tenants = client, Tenants(client)
        self._rules, self._classes = rules, classes
        self._mark = hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""

    def follow(self) -> None:
        """Set them where others are known. One round trip if nothing has changed."""
        pipe = self._client.pipeline(transaction=False)
        for name in self._classes:
            pipe.hget(class_key(name, "tenant_rules"), "mark")
        marks = zip(self._classes, pipe.execute(raise_on_error=False), strict=True)
        # A class that has followed no file keeps what commands have set.
        others = [name for name, mark in marks if (mark or "") != self._mark]
        wanted = {name: self._rules.get(name, ClassRules({})) for name in others}
        for problem in self._tenants.follow(wanted, self._mark):
            raise problem


def _listed(rules: Mapping[str, TenantRule | None]) -> Sequence[tuple[str, Any]]:
    return [(name, rule.fields() if rule else False) for name, rule in rules.items()]


def _rules(found: Mapping[str, str]) -> tuple[dict[str, TenantRule], dict[str, str]]:
    """Parse the rules, without what cannot be read."""
    rules, sources = {}, {}
    for key, text in found.items():
        if key != OTHERS and not key.startswith("="):
            continue
        name = key.removeprefix("=")
        with suppress(ValueError, TypeError, AttributeError, WrongRule):
            entry = json.loads(text)
            source = entry.pop("source", "")
            rules[name], sources[name] = TenantRule.parse(entry, name), str(source)
    return rules, sources
