"""The table of record fields, and the lists that come from it."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from gpuqueue.cli.commands import why
from gpuqueue.cli.view import state
from gpuqueue.model import executor_env
from gpuqueue.model.job import Job
from gpuqueue.model.record import FIELDS, Record, Use, fields_with
from gpuqueue.nvidia.sampler import Sample
from gpuqueue.store.scripts import source

SCRIPTS = Path(str(files("gpuqueue.store") / "lua"))
ADOPTED = {"delivery", "id", "gpu_class", "isolation", "attempt", "token"}
GPU = {"gpu", "gpu_memory_peak", "gpu_memory_own", "gpu_error"}
CONTAINER = {"exit_code", "container_reason", "scheduled", "container_started"}
CONTAINER |= {"container_finished"}
USED = {
    Use.REQUIRED: ADOPTED,
    Use.ENVIRONMENT: ADOPTED
    | {"device", "time_limit", "task", "tenant", "retries", "nesting", "warm"}
    | {"gpus", "all_devices"},
    Use.ANNOTATION: ADOPTED
    | {"time_limit", "task", "name", "tenant", "retries", "nesting", "image", "warm", "reuse"}
    | {"max_time_limit", "planned_limit", "away_until", "domain", "origin", "gpus"},
    Use.ATTEMPT: GPU
    | CONTAINER
    | {"token", "instance", "worker", "device", "launched", "started", "timed_out", "wait"}
    | {"detail", "doomed", "doom_error", "doom_tried", "pod", "node"}
    | {"doom_blames", "doom_avoid"}
    | {"places", "probes", "loading", "if_lost", "load_error", "launches", "earlier", "elsewhere"}
    | {"away", "away_until", "near", "domain", "origin", "all_devices"}
    | {"warm_of", "warm_after", "warm_turn", "warm_most", "warm_last", "reused"},
    Use.TOMBSTONE: GPU
    | CONTAINER
    | {"delivery", "id", "task", "name", "gpu_class", "isolation", "tenant", "attempt"}
    | {"instance", "worker", "device", "created", "admitted", "started", "released", "reason"}
    | {"error", "retries", "owner", "image", "node", "pod", "avoid", "state", "ended"}
    | {"places", "probes", "spared", "requeues", "losses", "reuse", "warm", "tag", "elsewhere"}
    | {"disruptions", "recalled", "domain", "gpus", "all_devices", "larger", "escalated"}
    | {"memory", "memory_used", "memory_runs"}
    | {"warm_of", "warm_after", "warm_turn", "warm_most", "warm_last", "reused"},
}


@pytest.mark.parametrize("use", USED)
def test_the_fields_of_a_use(use: Use) -> None:
    assert set(fields_with(use)) == USED[use]


def test_commands_show_fields_in_their_order() -> None:
    assert fields_with(Use.SHOWN) == (
        *("id", "delivery", "name", "task", "gpu_class", "isolation", "tenant", "priority"),
        *(
            "gpus",
            "reuse",
            "warm",
            "memory",
            "memory_used",
            "memory_runs",
            "larger",
            "escalated",
            "state",
            "finish_error",
            "attempt",
            "device",
            "all_devices",
            "domain",
            "probes",
            "spared",
            "disruptions",
            "requeues",
            "losses",
            "worker",
            "warm_of",
            "warm_turn",
            "reused",
            "image",
            "node",
            "pod",
            "wait",
            "detail",
        ),
        *("avoid", "away", "exit_code", "container_reason"),
        *("gpu", "gpu_memory_peak", "gpu_memory_own", "gpu_error"),
        *state.MOMENTS,
    )
    assert list(state.MOMENTS) == [
        *("created", "eta", "expires", "admitted", "launched", "scheduled"),
        *("container_started", "started", "container_finished", "released", "ended"),
    ]
    assert set(why._FACTS) <= set(fields_with(Use.SHOWN))


@pytest.mark.parametrize(
    ("verb", "name", "use"),
    [("release", "OF_ATTEMPT", Use.ATTEMPT), ("finished", "KEPT", Use.TOMBSTONE)],
)
def test_the_scripts_get_their_lists_from_the_table(verb: str, name: str, use: Use) -> None:
    text = source(verb).partition(f"local {name} = {{")[2].partition("}")[0]
    assert re.findall(r"'(\w+)'", text) == list(fields_with(use))


@pytest.mark.parametrize("path", sorted(SCRIPTS.rglob("*.lua")), ids=lambda path: path.stem)
def test_a_field_that_a_script_names_is_in_the_table(path: Path) -> None:
    named = set(re.findall(r"\b(?:job|known|older|newest|stone)\.(\w+)", path.read_text()))
    assert named <= set(FIELDS)


def test_fields_of_jobs_and_samples_are_in_the_table() -> None:
    assert set(Job.__slots__) | set(Sample.__annotations__) <= set(FIELDS)


def test_a_record_passes_through_the_environment() -> None:
    record: Record = {
        "id": "j",
        "delivery": "j~1",
        "gpu_class": "t4",
        "isolation": "shared",
        "attempt": 2,
        "token": "secret",
        "time_limit": 60.5,
        "device": 0,
        "retries": 1,
        "name": "stays",
    }
    env = executor_env.record_variables(record)
    assert env == {
        "GPUQUEUE_JOB_ID": "j",
        "GPUQUEUE_DELIVERY": "j~1",
        "GPUQUEUE_GPU_CLASS": "t4",
        "GPUQUEUE_ISOLATION": "shared",
        "GPUQUEUE_ATTEMPT": "2",
        "GPUQUEUE_TOKEN": "secret",
        "GPUQUEUE_TIME_LIMIT": "60.5",
        "GPUQUEUE_DEVICE": "0",
        "GPUQUEUE_RETRIES": "1",
    }
    del record["name"]
    assert executor_env.parse_record(env) == record
    assert set(env) <= executor_env.OF_ATTEMPT


@pytest.mark.parametrize("name", sorted(USED[Use.REQUIRED]))
def test_an_environment_without_a_required_variable_is_refused(name: str) -> None:
    env = {executor_env.VARIABLES[each]: "1" for each in USED[Use.REQUIRED] if each != name}
    with pytest.raises(KeyError, match=executor_env.VARIABLES[name]):
        executor_env.parse_record(env)


def test_a_number_that_is_none_is_refused() -> None:
    env = dict.fromkeys(executor_env.VARIABLES.values(), "1") | {"GPUQUEUE_ATTEMPT": "one"}
    with pytest.raises(ValueError, match="one"):
        executor_env.parse_record(env)
