"""``gpuqueue doctor``: finds what would keep jobs from running, and how to fix it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

import click

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.checks import (
    application,
    celery,
    log_sink,
    machine,
    memory,
    profiles,
    redis_server,
    runners,
    setting_names,
)
from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.cli.view import render
from gpuqueue.cli.view.state import State
from gpuqueue.errors import GpuQueueError, SettingsError
from gpuqueue.model.profile import Profile
from gpuqueue.model.redis_url import mask
from gpuqueue.settings.classes import configured
from gpuqueue.settings.dispatcher import Settings, load
from gpuqueue.store.client import check, connect
from gpuqueue.store.owners import Owners
from gpuqueue.store.reader import Reader

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


@click.command()
@click.option("-A", "--app", help="The application to check, instead of GPUQUEUE_APP.")
@render.json_option
def doctor(app: str | None, as_json: bool) -> int:
    """Check settings, Redis, Celery, dispatchers, GPUs, log sink, cluster and application.

    Exit status: 1 if a check is FAIL.
    """
    found = []
    for each in examine(app):
        found.append(each)
        if not as_json:
            _show(each)
    failed = any(each.level is Level.FAIL for each in found)
    if as_json:
        render.emit({"ok": not failed, "checks": [asdict(each) for each in found]})
    return 1 if failed else 0


def examine(app: str | None) -> Iterator[Check]:
    """Yield every possible check; checks that need something missing are left out."""
    yield from machine.versions()
    try:
        settings = load()
        url, classes = settings.redis_url, configured(settings)
    except SettingsError as exc:
        yield Check.failed("settings", exc)
        return
    yield Check(
        "settings", Level.OK, f"{settings.execution_mode} mode, classes {', '.join(classes)}"
    )
    yield from setting_names.misspelt(os.environ)
    name = app or settings.app
    looking = application.begin(name) if name else None
    state = _connect(settings, url, settings.redis_setting)
    if isinstance(state, State):
        yield Check("redis", Level.OK, mask(url))
        yield from redis_server.tls(settings)
        rights = list(redis_server.rights(settings))
        yield from rights
        if any(each.level is Level.FAIL for each in rights):
            state = rights[0]  # without these rights no other check of Redis can run
        else:
            yield from redis_server.writes(state.client, settings)
            yield from redis_server.redis(state.client)
            yield from redis_server.replicas(state.client, url)
            yield from redis_server.layout(state)
            yield from redis_server.clock(state.client)
            yield from _broker(settings, url)
    else:
        yield state
    seen = application.finish(looking, name) if looking and name else None
    kept = state.profiles(name) if isinstance(state, State) else {}
    yield from application.check(name, seen, settings, kept)
    yield from _profiles(name, kept, seen, settings)
    yield from machine.gpus(settings, classes)
    yield from runners.executors(settings, name)
    yield from log_sink.writes(settings)
    owners = Owners(state.client) if isinstance(state, State) else None
    yield from _cluster(settings, classes, owners)
    if isinstance(state, State):
        yield from _celery(state, seen)
        yield from log_sink.logs(state)


def _profiles(
    name: str | None,
    kept: Mapping[str, Profile],
    seen: application.Application | None,
    settings: Settings,
) -> Iterator[Check]:
    """Check what the application says here, or else what its executors have told."""
    from gpuqueue.celery import app  # its settings, read at import, are valid here
    from gpuqueue.glue.profile import profile_of

    here = {"": seen.profile} if seen and seen.profile else {}
    own = profile_of(app, settings.redis.told_backend)
    yield from profiles.profiles(name or "the application", {**kept, **here}, own, settings.told)


def _connect(settings: Settings, url: str, setting: str) -> State | Check:
    client = connect(url, timeout=5, retries=1)
    try:
        check(client, url, setting)
    except GpuQueueError as exc:
        return Check.failed("redis", exc)
    return State(client, Reader(client), settings)


def _broker(settings: Settings, url: str) -> Iterator[Check]:
    """Check the broker, if the state of the queue has a different address."""
    broker = settings.redis.broker
    if not broker:
        yield Check(
            "broker",
            Level.FAIL,
            "CELERY_BROKER_URL is not set",
            "set it to the applications' broker",
        )
    elif settings.state_url:
        found = _connect(settings, broker, "CELERY_BROKER_URL")
        yield (
            Check("broker", Level.OK, mask(broker))
            if isinstance(found, State)
            else replace(found, name="broker")
        )


def _cluster(
    settings: Settings, classes: dict[str, GpuClass], owners: Owners | None
) -> Iterator[Check]:
    if settings.execution_mode != "k8s_job":
        return
    try:
        from gpuqueue.cli.checks.cluster import cluster
    except ImportError as exc:
        yield Check(
            "cluster",
            Level.FAIL,
            f"{exc.name} is not installed",
            "pip install 'gpuqueue[kubernetes]'",
        )
        return
    yield from cluster(settings, classes, owners)


def _celery(state: State, seen: application.Application | None) -> Iterator[Check]:
    from gpuqueue.celery import app  # its settings, read at import, are valid here
    from gpuqueue.glue.profile import profile_of

    yield from celery.backend(state.settings.redis, state.client)
    yield from celery.dead_letters()
    yield from celery.tombstones(state.settings, app.conf.broker_transport_options)
    expires = {"dispatcher": profile_of(app).expires}
    if seen and seen.profile:
        expires["application"] = seen.profile.expires
    yield from celery.results_kept(state, expires)
    yield from celery.dispatchers(state)
    yield from celery.without_slots(state)
    yield from celery.damaged(state)
    yield from memory.memory(state)


def _show(each: Check) -> None:
    out = render.console()
    told = render.safe(f"{each.name}: {each.saw}")
    out.print(f"[{_COLOURS[each.level]}]{each.level:<4}[/]  {told}")
    if each.fix:
        out.print(f"      {render.safe(each.fix)}")
