"""Which classes fit a job, which one it gets, and how classes are configured."""

from __future__ import annotations

from typing import Any

import pytest

from gpuqueue.classes.choose import DRIVER_RESERVE, resolve
from gpuqueue.classes.gpu_class import GpuClass, chords_class, mig_class
from gpuqueue.classes.toml_file import from_toml
from gpuqueue.errors import InvalidJob, SettingsError
from gpuqueue.model.names import parse_queue
from gpuqueue.model.request import GpuRequest

GB = 10**9
T4 = GpuClass("t4", shared_slots=8, exclusive_slots=1, memory=16 * GB)
A100 = GpuClass("a100", exclusive_slots=2, memory=80 * GB)
SMALL = mig_class("nvidia.com/mig-1g.5gb", 7)
MIDDLE = mig_class("nvidia.com/mig-3g.20gb", 2)
WIDE = mig_class("nvidia.com/mig-4g.20gb", 1)
ALL = {each.name: each for each in (A100, WIDE, T4, MIDDLE, SMALL)}

FITTING: dict[str, tuple[str, dict[str, Any], list[str], str]] = {
    "a named class is the only candidate": ("gpu.a100", {}, ["a100"], "exclusive"),
    "a named class with shared slots shares by default": ("gpu.t4", {}, ["t4"], "shared"),
    "the queue sets the isolation": ("gpu.t4.exclusive", {}, ["t4"], "exclusive"),
    "the header sets the isolation": ("gpu.t4", {"isolation": "exclusive"}, ["t4"], "exclusive"),
    "auto: all that fit, smallest memory first": (
        *("gpu.auto", {"isolation": "exclusive"}),
        *(["mig-1g.5gb", "t4", "mig-3g.20gb", "mig-4g.20gb", "a100"], "exclusive"),
    ),
    "mig: only profiles": (
        "gpu.mig",
        {},
        ["mig-1g.5gb", "mig-3g.20gb", "mig-4g.20gb"],
        "exclusive",
    ),
    "memory excludes small classes": (
        "gpu.mig",
        {"memory": 6 * GB},
        ["mig-3g.20gb", "mig-4g.20gb"],
        "exclusive",
    ),
    "slices exclude small profiles": ("gpu.mig", {"slices": 4}, ["mig-4g.20gb"], "exclusive"),
    "shared isolation excludes classes without it": (
        "gpu.auto",
        {"isolation": "shared"},
        ["t4"],
        "shared",
    ),
    "several GPUs exclude classes with fewer slots, and those of slices": (
        "gpu.auto",
        {"gpus": 2},
        ["a100"],
        "exclusive",
    ),
    "one GPU excludes none": ("gpu.t4", {"gpus": 1}, ["t4"], "shared"),
    "memory minus the driver reserve just fits": (
        "gpu.t4",
        {"memory": 16 * GB - DRIVER_RESERVE},
        ["t4"],
        "shared",
    ),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an unknown class": (
        "gpu.h100",
        {},
        "queue='gpu.h100' names the unknown class 'h100'; this dispatcher has: gpu.a100",
    ),
    "two different isolations": (
        "gpu.t4.shared",
        {"isolation": "exclusive"},
        "contradicts the queue gpu.t4.shared; set only one of them",
    ),
    "shared isolation on a class without it": (
        "gpu.a100.shared",
        {},
        "has no slots on class 'a100'; route to gpu.a100",
    ),
    "more memory than any class has": (
        "gpu.auto",
        {"memory": 81 * GB},
        "exceeds the usable memory of class 'a100' (74.0GiB); ask for less",
    ),
    "more than memory minus the driver reserve": (
        "gpu.t4",
        {"memory": 16 * GB - DRIVER_RESERVE + 1},
        "exceeds the usable memory of class 't4' (14.4GiB)",
    ),
    "more GPUs than a domain has": (
        "gpu.a100",
        {"gpus": 3},
        "gpu.gpus=3 exceeds the exclusive slots of class 'a100' (2 in one domain); ask for up to 2,"
        " or raise exclusive_slots where nodes have 3 GPUs",
    ),
    "several GPUs that its queue shares": (
        "gpu.t4.shared",
        {"gpus": 2},
        "gpu.gpus=2 needs GPUs that no other job shares, but its queue is gpu.t4.shared; route to"
        " gpu.t4.exclusive, or set gpus=1",
    ),
    "several slices as GPUs": (
        "gpu.mig-1g.5gb",
        {"gpus": 2},
        "gpu.gpus=2 needs whole GPUs, but class 'mig-1g.5gb' has MIG slices, of which a process"
        " uses one; ask for a larger slice",
    ),
    "more slices than any profile has": (
        "gpu.mig",
        {"slices": 5},
        "gpu.slices=5 exceeds the slices of class 'mig-4g.20gb' (4)",
    ),
}
#: Classes that run no job of several GPUs, in pods, and why.
NOT_SEVERAL: dict[str, tuple[GpuClass, str]] = {
    "each GPU is a domain": (
        GpuClass("x", exclusive_slots=1).on(4),
        "exceeds 1, as each GPU of class 'x' is a domain by itself; set domain = \"class\" and"
        " exclusive_slots = 2 for the class",
    ),
    "its GPUs are shared": (
        GpuClass("x", shared_slots=8, exclusive_slots=2),
        "needs whole GPUs, but those of class 'x' are shared (shared_slots); use a class without",
    ),
    "each job gets two GPUs": (
        GpuClass("x", exclusive_slots=4, gpus=2),
        "needs a class that counts single GPUs, but each job of class 'x' gets 2; leave gpus out,"
        " or set gpus = 1 for the class",
    ),
    "claims bring its GPUs": (
        GpuClass("x", exclusive_slots=4, gpus=0),
        "needs a class that counts single GPUs, but each job of class 'x' gets those of its claims",
    ),
}
TABLES: dict[str, tuple[str, str]] = {
    "is not TOML": ("[classes", "GPUQUEUE_CLASSES_FILE='f.toml' is not TOML"),
    "has a name in capitals": (
        "[classes.T4]\nshared_slots = 1",
        "f.toml: classes.T4: 'T4' is not a valid class name",
    ),
    "has a price below 0": (
        "[classes.x]\nshared_slots = 1\nprice_per_hour = -0.5",
        "f.toml: classes.x.price_per_hour=-0.5 is no price per hour; use 0 to 1,000,000",
    ),
    "has a price in words": (
        "[classes.x]\nshared_slots = 1\nprice_per_hour = 'free'",
        "classes.x.price_per_hour='free' is no price per hour",
    ),
    "has a reserved name": (
        "[classes.auto]\nshared_slots = 1",
        "'auto' is not a valid class name",
    ),
    "has the name of a queue": (
        "[classes.'gpu.x1']\nshared_slots = 1",
        "'gpu.x1' is not a valid class name; use lower-case letters, digits, '.', '-' (not auto,"
        " mig, refused, chords, gpu.…)",
    ),
    "has the name of an internal class": (
        "[classes.chords]\nshared_slots = 1",
        "'chords' is not a valid class name",
    ),
    "has no resource": (
        "[classes.l4]\nshared_slots = 1\nresource = ''",
        "classes.l4.resource='' is not the name of a resource; use e.g. 'nvidia.com/gpu'",
    ),
    "is no table": (
        "classes.l4 = 3",
        "f.toml: classes.l4=3 is not a table; use [classes.NAME]",
    ),
    "has an unknown field": (
        "[classes.l4]\nslots = 3",
        "f.toml: classes.l4.slots=3 is unknown; known: cpu, default_time_limit, devices,",
    ),
    "has a default time limit above the largest": (
        "[classes.l4]\nshared_slots = 1\ndefault_time_limit = 61\nmax_time_limit = 60",
        (
            "f.toml: classes.l4.default_time_limit=61 exceeds max_time_limit=60; lower it, or raise"
            " max_time_limit"
        ),
    ),
    "has a time limit of 0": (
        "[classes.l4]\nshared_slots = 1\nmax_time_limit = 0",
        "classes.l4.max_time_limit=0 is not a number of seconds; use 1 to 1000000000",
    ),
    "has text for a clock": (
        "[classes.l4]\nshared_slots = 1\nunschedulable_timeout = '10m'",
        "classes.l4.unschedulable_timeout='10m' is not a number of seconds; use 1 to 86400",
    ),
    "has several GPUs and shared slots": (
        "[classes.l4]\nshared_slots = 1\ngpus = 2",
        (
            "f.toml: classes.l4.gpus=2 needs whole GPUs, but shared_slots=1; use exclusive_slots,"
            " or gpus = 1"
        ),
    ),
    "has several slices of MIG": (
        "[classes.l4]\nexclusive_slots = 1\nresource = 'nvidia.com/mig-1g.5gb'\ngpus = 2",
        (
            "f.toml: classes.l4.gpus=2 needs whole GPUs, but resource='nvidia.com/mig-1g.5gb' is a"
            " MIG slice; a process can use one slice: use gpus = 1"
        ),
    ),
    "has a negative number of GPUs": (
        "[classes.l4]\nexclusive_slots = 1\ngpus = -1",
        "classes.l4.gpus=-1 is not a whole number of 0 to 64",
    ),
    "has more shared memory than memory": (
        "[classes.l4]\nshared_slots = 1\nhost_memory = '4Gi'\nshm_size = '5Gi'",
        (
            "f.toml: classes.l4.shm_size='5Gi' exceeds host_memory='4Gi', which its content counts"
            " against; lower it, or raise host_memory"
        ),
    ),
    "has a fraction of a slot": (
        "[classes.l4]\nshared_slots = 1.5",
        "classes.l4.shared_slots=1.5 is not a whole number of 0 to 10000",
    ),
    "has more slots than scripts count": (
        f"[classes.l4]\nshared_slots = 1{'0' * 400}",
        "classes.l4.shared_slots=1000",
    ),
    "has a number that no text shows": (
        f"[classes.l4]\nshared_slots = {'9' * 5000}",
        "GPUQUEUE_CLASSES_FILE='f.toml' is not TOML: Exceeds the limit",
    ),
    "is nested too deeply": (f"x = {'[' * 9999}", "GPUQUEUE_CLASSES_FILE='f.toml' is not TOML"),
    "stands in another table": (
        "[class.l4]\nshared_slots = 1",
        "f.toml.class={'l4': {'shared_slots': 1}} is unknown; known: classes",
    ),
    "has the queue of another class": (
        "[classes.'l4.shared']\nshared_slots = 1",
        "the queue gpu.l4.shared does not lead to a class 'l4.shared'; use a name without a '.'",
    ),
    "has a queue that none reads": (
        "[classes.'rtx.ada']\nexclusive_slots = 1",
        "the queue gpu.rtx.ada does not lead to a class 'rtx.ada'; use a name without a '.', e.g."
        " 'rtx-ada'",
    ),
    "lists a GPU twice": (
        "[classes.l4]\nshared_slots = 1\ndevices = [1, 1]",
        "classes.l4.devices=[1, 1] lists a GPU twice; list each GPU once",
    ),
    "has memory without its unit": (
        "[classes.l4]\nshared_slots = 1\nmemory = '24'",
        "classes.l4.memory='24' is below 1 MiB; write bytes, or a number with KiB",
    ),
    "has a patience of 0": (
        "[classes.l4]\nshared_slots = 1\nshared_patience = 0",
        "shared_patience=0 is not a whole number of 1 to 1000000",
    ),
    "has pods that wait for less than no time": (
        "[classes.l4]\nshared_slots = 1\nwarm_seconds = -0.5",
        "f.toml: classes.l4.warm_seconds=-0.5 is not a number of seconds; use 0 to 86400",
    ),
    "has pods that wait for more than a day": (
        "[classes.l4]\nshared_slots = 1\nwarm_seconds = inf",
        "warm_seconds=inf is not a number of seconds; use 0 to 86400",
    ),
    "has text for the age of pods": (
        "[classes.l4]\nshared_slots = 1\nwarm_age = '1h'",
        "classes.l4.warm_age='1h' is not a number of seconds; use 1 to 604800",
    ),
    "has a truth for seconds": (
        "[classes.l4]\nshared_slots = 1\nwarm_seconds = true",
        "warm_seconds=True is not a number of seconds",
    ),
    "has pods that run no job": (
        "[classes.l4]\nshared_slots = 1\nwarm_jobs = 0",
        "classes.l4.warm_jobs=0 is not a whole number of 1 to 1000000",
    ),
    "has text for memory": (
        "[classes.l4]\nshared_slots = 1\nmemory = 'big'",
        "classes.l4.memory='big' is not an amount",
    ),
    "has no slots": (
        "[classes.l4]\nmemory = '24GB'",
        "classes.l4 has no slots; set shared_slots or exclusive_slots",
    ),
    "has nodes that are no domains": (
        "[classes.l4]\nshared_slots = 1\nnodes = ['a']",
        "classes.l4.nodes=['a'] names its domains, but domain=None; set domain = 'node', or use",
    ),
    "has a node twice": (
        "[classes.l4]\nshared_slots = 1\ndomain = 'node'\nnodes = ['a', 'a']",
        "classes.l4.nodes=['a', 'a'] is not a list of different node names; use e.g.",
    ),
    "has an empty list of nodes": (
        "[classes.l4]\nshared_slots = 1\ndomain = 'node'\nnodes = []",
        "classes.l4.nodes=[] is not a list of different node names",
    ),
    "has a pattern for a node": (
        "[classes.l4]\nshared_slots = 1\ndomain = 'node'\nnodes = ['gpu-*']",
        "classes.l4.nodes=['gpu-*'] is not a list of different node names",
    ),
    "may have no node": (
        "[classes.l4]\nshared_slots = 1\ndomain = 'node'\nscale_to = 0",
        "classes.l4.scale_to=0 is not a whole number of 1 to 5000",
    ),
    "may have too many nodes": (
        "[classes.l4]\nshared_slots = 1\ndomain = 'node'\nscale_to = 5001",
        "classes.l4.scale_to=5001 is not a whole number of 1 to 5000",
    ),
    "counts nodes that are no domains": (
        "[classes.l4]\nshared_slots = 1\nscale_to = 3",
        "classes.l4.scale_to=3 counts nodes, but domain=None; set domain = 'node', or remove it",
    ),
    "may have fewer nodes than it has": (
        "[classes.l4]\nshared_slots = 1\ndomain = 'node'\nnodes = ['a', 'b']\nscale_to = 1",
        "classes.l4.scale_to=1 is below the 2 nodes of the class; use at least 2",
    ),
    "has an unknown domain": (
        "[classes.l4]\nshared_slots = 1\ndomain = 'rack'",
        "classes.l4.domain='rack' is no domain; use one of: class, node, device",
    ),
    "names devices by UUID": (
        "[classes.l4]\nshared_slots = 1\ndevices = ['GPU-1']",
        "is not a list of GPU indexes",
    ),
}


@pytest.mark.parametrize(("queue", "fields", "names", "isolation"), FITTING.values(), ids=FITTING)
def test_classes_that_fit_a_job(
    queue: str, fields: dict[str, Any], names: list[str], isolation: str
) -> None:
    fitting, found = resolve(ALL, parse_queue(queue), GpuRequest(**fields))
    assert ([each.name for each in fitting], found) == (names, isolation)


@pytest.mark.parametrize(("queue", "fields", "text"), REFUSED.values(), ids=REFUSED)
def test_job_that_fits_no_class_is_refused(queue: str, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        resolve(ALL, parse_queue(queue), GpuRequest(**fields))
    assert text in str(caught.value)


@pytest.mark.parametrize(("each", "text"), NOT_SEVERAL.values(), ids=NOT_SEVERAL)
def test_a_class_runs_no_job_of_several_gpus_if(each: GpuClass, text: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        resolve({"x": each}, parse_queue("gpu.x"), GpuRequest(gpus=2), in_pods=True)
    assert f"gpu.gpus=2 {text}" in str(caught.value)
    assert resolve({"x": each}, parse_queue("gpu.x"), GpuRequest(gpus=1), in_pods=True)


def test_a_machine_deals_whole_gpus_that_jobs_share_at_other_times() -> None:
    each = GpuClass("x", shared_slots=8, exclusive_slots=2, domain="class").on(2)
    assert resolve({"x": each}, parse_queue("gpu.x"), GpuRequest(gpus=2)) == ([each], "exclusive")


@pytest.mark.parametrize(
    ("queue", "limit", "classes"),
    [
        ("gpu.short", 60, ["short"]),
        ("gpu.auto", 60, ["short", "long"]),
        ("gpu.auto", 61, ["long"]),
        ("gpu.auto", None, ["short", "long"]),
    ],
    ids=["at the largest limit", "within both", "above one", "without a limit"],
)
def test_time_limit_excludes_classes_with_a_smaller_largest_one(
    queue: str, limit: float | None, classes: list[str]
) -> None:
    known = {
        "short": GpuClass("short", exclusive_slots=1, memory=1 * GB, max_time_limit=60),
        "long": GpuClass("long", exclusive_slots=1, memory=2 * GB),
    }
    fitting, _ = resolve(known, parse_queue(queue), GpuRequest(), limit)
    assert [each.name for each in fitting] == classes


def test_time_limit_above_the_largest_of_the_class_is_refused() -> None:
    known = {"short": GpuClass("short", exclusive_slots=1, max_time_limit=60)}
    with pytest.raises(InvalidJob) as caught:
        resolve(known, parse_queue("gpu.short"), GpuRequest(), 60.5)
    assert (
        str(caught.value) == "time_limit=60.5 exceeds max_time_limit of class 'short' (60 s); ask"
        " for up to 60, or use another class"
    )


def test_queue_mig_without_a_profile_names_missing_settings() -> None:
    with pytest.raises(
        InvalidJob, match="has no class to choose from; set MIG_TOTAL_SLOTS and GPU_RESOURCE_NAME"
    ):
        resolve({"t4": T4}, parse_queue("gpu.mig"), GpuRequest())


def test_a_machine_is_one_node() -> None:
    by_node = GpuClass("l4", shared_slots=1, domain="node")
    assert by_node.spec()["domain"] == "node"
    assert [("domain" in by_node.on(gpus).spec(gpus)) for gpus in (0, 1, 4)] == [False] * 3


@pytest.mark.parametrize(("text", "problem"), TABLES.values(), ids=TABLES)
def test_invalid_classes_file_is_refused(text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_toml(text, "f.toml")
    assert problem in str(caught.value)


def test_a_price_of_the_file_replaces_that_of_the_settings() -> None:
    text = "[classes.a]\nshared_slots = 1\nprice_per_hour = 0.10\n[classes.b]\nshared_slots = 1"
    made = from_toml(text, "f.toml", price_per_hour="2")
    assert [each.price_per_hour for each in made.values()] == ["0.1", "2"]


def test_classes_file_configures_classes() -> None:
    text = (
        "[classes.l4]\nresource = 'x/gpu'\nshared_slots = 4\nexclusive_slots = 1\nmemory ="
        " '24GB'\ndevices = [0, 2]"
    )
    made = from_toml(text, "f.toml", shared_patience=3)["l4"]
    assert made == GpuClass("l4", "x/gpu", 4, 1, 24 * GB, shared_patience=3, devices=(0, 2))
    assert made.queues == ["gpu.l4.shared", "gpu.l4.exclusive"]
    assert made.spec(2) == {
        "shared_slots": 4,
        "exclusive_slots": 1,
        "exclusive_patience": 8,
        "shared_patience": 3,
        "devices": 2,
    }


def test_mig_class_has_the_name_of_its_profile_and_no_sharing() -> None:
    assert GpuClass("mig-1g.5gb", "nvidia.com/mig-1g.5gb", 0, 7, 5 * GB, 1) == SMALL
    assert SMALL.queues == ["gpu.mig-1g.5gb"]
    with pytest.raises(SettingsError, match="is not a MIG profile"):
        mig_class("nvidia.com/gpu", 7)


def test_no_queue_leads_to_the_class_of_unlocks() -> None:
    team, spot = {"key": "team", "operator": "Exists"}, {"key": "spot", "operator": "Exists"}
    made = chords_class(
        [
            GpuClass("t4", shared_slots=1, tolerations=[team]),
            GpuClass("a100", exclusive_slots=1, tolerations=[team, spot]),
        ]
    )
    assert (made.has_gpu, made.queues, made.exclusive_slots) == (False, [], 0)
    assert made.slots("shared") > 0
    assert made.tolerations == [team, spot], "it runs wherever a body may run"
