"""Settings from the environment, and the classes that they configure."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuqueue.classes.gpu_class import T4_MEMORY
from gpuqueue.errors import SettingsError
from gpuqueue.settings.classes import configured
from gpuqueue.settings.dispatcher import Settings, load
from tests.unit.settings.conftest import SetAll

#: variable → (value, field, value of the field)
NAMES: dict[str, tuple[str, str, object]] = {
    "CELERY_BROKER_URL": ("redis://r/1", "broker_url", "redis://r/1"),
    "CELERY_RESULT_BACKEND": ("redis://r/2", "result_backend", "redis://r/2"),
    "GPUQUEUE_REDIS_URL": ("redis://s/0", "state_url", "redis://s/0"),
    "GPUQUEUE_APP": ("shop.celery:app", "app", "shop.celery:app"),
    "GPU_EXECUTION_MODE": ("k8s_job", "execution_mode", "k8s_job"),
    "T4_SHARED_SLOTS": ("4", "t4_shared_slots", 4),
    "T4_EXCLUSIVE_SLOTS": ("2", "t4_exclusive_slots", 2),
    "T4_SCALE_TO": ("3", "t4_scale_to", 3),
    "MIG_TOTAL_SLOTS": ("7", "mig_total_slots", 7),
    "GPU_RESOURCE_NAME": ("nvidia.com/gpu.shared", "resource_name", "nvidia.com/gpu.shared"),
    "GPUQUEUE_EXCLUSIVE_PATIENCE": ("3", "exclusive_patience", 3),
    "GPUQUEUE_SHARED_PATIENCE": ("2", "shared_patience", 2),
    "GPUQUEUE_WARM_SECONDS": ("30", "warm_seconds", 30.0),
    "GPUQUEUE_WARM_JOBS": ("5", "warm_jobs", 5),
    "GPUQUEUE_WARM_AGE_SECONDS": ("600", "warm_age", 600.0),
    "GPUQUEUE_PRICE_PER_HOUR": ("0.350", "price_per_hour", "0.35"),
    "GPUQUEUE_USAGE_ENTRIES": ("100", "usage_entries", 100),
    "GPUQUEUE_MAX_ATTEMPTS": ("5", "max_attempts", 5),
    "GPUQUEUE_MAX_DISRUPTIONS": ("0", "max_disruptions", 0),
    "GPUQUEUE_TOMBSTONE_SECONDS": ("7200", "tombstone_seconds", 7200.0),
    "GPUQUEUE_DEVICES": ("none", "devices", "none"),
}
WRONG: dict[str, tuple[dict[str, str], str]] = {
    "text for a number": (
        {"T4_SHARED_SLOTS": "many"},
        "T4_SHARED_SLOTS='many': input should be a valid integer",
    ),
    "a negative number of slots": (
        {"T4_EXCLUSIVE_SLOTS": "-1"},
        "T4_EXCLUSIVE_SLOTS='-1': input should be greater than or equal to 0",
    ),
    "a patience of 0": ({"GPUQUEUE_SHARED_PATIENCE": "0"}, "GPUQUEUE_SHARED_PATIENCE='0'"),
    "a wait of more than a day": (
        {"GPUQUEUE_WARM_SECONDS": "86401"},
        "GPUQUEUE_WARM_SECONDS='86401': input should be less than or equal to 86400",
    ),
    "a wait that is not a number": (
        {"GPUQUEUE_WARM_SECONDS": "nan"},
        "GPUQUEUE_WARM_SECONDS='nan': input should be",
    ),
    "a pod that runs no job": (
        {"GPUQUEUE_WARM_JOBS": "0"},
        "GPUQUEUE_WARM_JOBS='0': input should be greater than or equal to 1",
    ),
    "a pod that is old at once": (
        {"GPUQUEUE_WARM_AGE_SECONDS": "0"},
        "GPUQUEUE_WARM_AGE_SECONDS='0': input should be greater than or equal to 1",
    ),
    "a price of a fraction of a millionth": (
        {"GPUQUEUE_PRICE_PER_HOUR": "0.0000001"},
        "GPUQUEUE_PRICE_PER_HOUR='0.0000001' is no price per hour; use 0 to 1,000,000 with",
    ),
    "an unknown mode": (
        {"GPU_EXECUTION_MODE": "slurm"},
        "GPU_EXECUTION_MODE='slurm': input should be 'local' or 'k8s_job'",
    ),
    "a broker other than Redis": (
        {"CELERY_BROKER_URL": "amqp://r"},
        "CELERY_BROKER_URL='amqp://r' is not Redis; use one of redis://",
    ),
    "a port that is no number": (
        {"CELERY_BROKER_URL": "redis://:secret@r:63x9/0"},
        "CELERY_BROKER_URL='redis://:**@r:63x9/0' has a port that is none; use a number from 1",
    ),
    "a password that is no part of an address": (
        {"GPUQUEUE_REDIS_URL": "redis://u:p/w@r:6379/0"},
        "GPUQUEUE_REDIS_URL='redis://u:**@r:6379/0' has a port that is none; use a number",
    ),
    "a database that is no number": (
        {"GPUQUEUE_REDIS_URL": "redis://r:6379/jobs"},
        "GPUQUEUE_REDIS_URL='redis://r:6379/jobs' has a database that is no number; end it with /0",
    ),
    "a database that redis-py takes for another": (
        {"CELERY_BROKER_URL": "redis://:secret@r:6379/1/2"},
        "CELERY_BROKER_URL='redis://:**@r:6379/1/2' has a database that is no number",
    ),
    "several servers": (
        {"CELERY_BROKER_URL": "redis://:secret@a/0;redis://:secret@b/0"},
        "CELERY_BROKER_URL='redis://:**@b/0' has several addresses; use that of one server",
    ),
    "an option of a client": (
        {"CELERY_BROKER_URL": "redis://:secret@r:6379?db=1"},
        "CELERY_BROKER_URL='redis://:**@r:6379?db=1' has the option 'db', which Celery's broker",
    ),
    "an option without a value": (
        {"CELERY_BROKER_URL": "rediss://r/0?ssl_cert_reqs=none&socket_timeout="},
        "has the option 'socket_timeout', which Celery's broker does not take; remove it",
    ),
    "an option that no client has": (
        {"GPUQUEUE_REDIS_URL": "redis://:secret@r/0?client_name=q&timout=1"},
        "has the unknown option 'timout'; remove it, or use db, virtual_host",
    ),
    "a state store other than Redis": (
        {"GPUQUEUE_REDIS_URL": "http://r"},
        "GPUQUEUE_REDIS_URL='http://r' is not Redis",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_environment_variable_sets_its_field(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, field, expected = NAMES[name]
    assert getattr(load(), field) != expected, "the default would prove nothing"
    monkeypatch.setenv(name, value)
    assert getattr(load(), field) == expected


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T4_SHARED_SLOTS", "")
    assert load().t4_shared_slots == 8


@pytest.mark.parametrize(("environ", "text"), WRONG.values(), ids=WRONG)
def test_error_states_variable_value_and_fix(
    environ: dict[str, str], text: str, set_all: SetAll
) -> None:
    set_all(environ)
    with pytest.raises(SettingsError) as caught:
        load()
    assert text in str(caught.value)


def test_error_lists_every_wrong_setting(set_all: SetAll) -> None:
    set_all({"T4_SHARED_SLOTS": "x", "MIG_TOTAL_SLOTS": "y"})
    with pytest.raises(SettingsError, match=r"T4_SHARED_SLOTS='x'.*; MIG_TOTAL_SLOTS='y'"):
        load()


def test_state_lives_with_the_broker_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SettingsError, match="CELERY_BROKER_URL is not set; set it to the applications' broker"
    ):
        load().redis_url
    monkeypatch.setenv("CELERY_BROKER_URL", "redis+socket:///run/redis.sock")
    assert load().redis_url == "unix:///run/redis.sock"
    monkeypatch.setenv("GPUQUEUE_REDIS_URL", "redis://s/0")
    assert load().redis_url == "redis://s/0"


def test_slots_in_the_environment_configure_the_t4() -> None:
    found = configured(
        Settings(T4_SHARED_SLOTS=3, T4_EXCLUSIVE_SLOTS=1, GPUQUEUE_EXCLUSIVE_PATIENCE=2)
    )
    assert list(found) == ["t4"]
    made = found["t4"]
    assert (made.resource, made.shared_slots, made.exclusive_slots) == ("nvidia.com/gpu", 3, 1)
    assert (made.memory, made.exclusive_patience) == (T4_MEMORY, 2)


def test_pods_wait_as_the_settings_say_unless_a_class_says_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "classes.toml"
    file.write_text(
        "[classes.l4]\nshared_slots = 1\n[classes.a100]\nshared_slots = 1\nwarm_seconds = 0\n"
    )
    found = configured(
        Settings(GPUQUEUE_CLASSES_FILE=file, GPUQUEUE_WARM_SECONDS=30, GPUQUEUE_WARM_JOBS=5)
    )
    waits = {name: (each.warm_seconds, each.warm_jobs) for name, each in found.items()}
    assert waits == {"t4": (30, 5), "l4": (30, 5), "a100": (0, 5)}


def test_mig_resource_makes_a_mig_class_beside_the_t4() -> None:
    found = configured(Settings(MIG_TOTAL_SLOTS=7, GPU_RESOURCE_NAME="nvidia.com/mig-1g.5gb"))
    assert {name: each.resource for name, each in found.items()} == {
        "t4": "nvidia.com/gpu",
        "mig-1g.5gb": "nvidia.com/mig-1g.5gb",
    }


def test_mig_slots_without_a_resource_are_refused() -> None:
    with pytest.raises(
        SettingsError,
        match="GPU_RESOURCE_NAME is not set, but MIG_TOTAL_SLOTS requires it; set it to",
    ):
        configured(Settings(MIG_TOTAL_SLOTS=7))


def test_configuration_without_slots_is_refused() -> None:
    with pytest.raises(
        SettingsError, match="no other class is configured; configure at least one slot"
    ):
        configured(Settings(T4_SHARED_SLOTS=0, T4_EXCLUSIVE_SLOTS=0))


def test_nodes_to_come_need_nodes_as_domains() -> None:
    found = configured(Settings(T4_SCALE_TO=3, T4_DOMAIN="node"))["t4"]
    assert found.scale_to == 3
    with pytest.raises(
        SettingsError,
        match="T4_SCALE_TO=3 counts nodes, but domain='class'; set T4_DOMAIN=node, or remove it",
    ):
        configured(Settings(T4_SCALE_TO=3, T4_DOMAIN="class"))


def test_class_in_the_file_replaces_one_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "classes.toml"
    file.write_text("[classes.t4]\nshared_slots = 2\n[classes.a100]\nexclusive_slots = 1\n")
    found = configured(Settings(GPUQUEUE_CLASSES_FILE=file, GPUQUEUE_SHARED_PATIENCE=4))
    assert {name: (each.shared_slots, each.shared_patience) for name, each in found.items()} == {
        "t4": (2, 4),
        "a100": (0, 4),
    }


def test_classes_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes("# größer".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"GPUQUEUE_CLASSES_FILE=.*it is not UTF-8"):
        configured(Settings(GPUQUEUE_CLASSES_FILE=tmp_path / "latin.toml"))


def test_missing_classes_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"GPUQUEUE_CLASSES_FILE=.*none\.toml' cannot be read: No such file"
    ):
        configured(Settings(GPUQUEUE_CLASSES_FILE=tmp_path / "none.toml"))
