"""The tables and the diagram of the docs hold what the code holds: none missing, none stale."""

from __future__ import annotations

import inspect
import re
import tomllib
from dataclasses import MISSING, fields
from fnmatch import fnmatch
from typing import Any

import pytest

import gpuqueue
from gpuqueue import errors
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.classes.toml_file import from_toml
from gpuqueue.cli import COMMANDS
from gpuqueue.launchers.kubernetes.manifest.environment import executor_variables
from gpuqueue.model.job import Record
from gpuqueue.model.reasons import TRY_AGAIN, EndReason, WaitReason
from gpuqueue.model.states import DISPATCHED, MOVES, QUEUED, JobState
from gpuqueue.nvidia.devices import Device, deal
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.submit import gpu
from tests.unit.pages import PAGES, ROOT, Page, anchor, defaults

PAGE = Page("docs/GPU_QUEUE.md")
TEXT = PAGE.text
#: Code that only a cluster runs, in the form of globs.
OF_KUBERNETES = (
    "launchers/kubernetes/*",
    "observe.py",
    "pod_ends.py",
    "pod_remains.py",
    "kube_*.py",
)
#: Code that names reasons and makes none: their words, and the errors that they become.
ABOUT_REASONS = ("reasons.py", "cli/*", "glue/completion.py", "launchers/base.py", "testing/*")


# -- states ----------------------------------------------------------------------------------------


def test_the_diagram_shows_every_move_and_no_other() -> None:
    wanted = {f"{before} --> {after}" for before, afters in MOVES.items() for after in afters}
    diagram = re.search(r"```mermaid\nstateDiagram-v2\n(.*?)```", TEXT, re.DOTALL)
    assert diagram
    shown = [line.strip() for line in diagram.group(1).strip().splitlines()]
    ends = {f"[*] --> {JobState.ACCEPTED}", f"{JobState.ENDED} --> [*]"}
    assert sorted(shown) == sorted(wanted | ends)


def test_the_table_of_states_has_each_once_in_order() -> None:
    rows = PAGE.table("## States")
    assert [row[0] for row in rows] == [str(state) for state in JobState]
    told = " ".join(row[2] for row in rows)
    assert QUEUED in told and DISPATCHED in told


# -- reasons ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "reasons"),
    [("### Why a job waits", WaitReason), ("### Why a job ended", EndReason)],
    ids=["waits", "ends"],
)
def test_the_table_of_reasons_has_each_once(heading: str, reasons: Any) -> None:
    assert sorted(row[0] for row in PAGE.table(heading)) == sorted(
        str(reason) for reason in reasons
    )


@pytest.mark.parametrize("heading", ["### Why a job waits", "### Why a job ended"])
def test_a_reason_is_said_to_be_where_some_code_makes_it(heading: str) -> None:
    made = {"both": "", "Kubernetes": ""}
    for path in [*ROOT.glob("gpuqueue/**/*.py"), *ROOT.glob("gpuqueue/**/*.lua")]:
        name = str(path.relative_to(ROOT / "gpuqueue"))
        if not any(fnmatch(name, pattern) for pattern in ABOUT_REASONS):
            made[
                "Kubernetes" if any(fnmatch(name, pattern) for pattern in OF_KUBERNETES) else "both"
            ] += path.read_text()
    for row in PAGE.table(heading):
        found = [
            where
            for where, code in made.items()
            if re.search(rf"'{row[0]}'|Reason\.{row[0]}\b", code)
        ]
        assert row[-1] == (found[0] if found else "later"), row


def test_errors_named_beside_reasons_exist() -> None:
    rows = [row for row in PAGE.table("### Why a job ended") if "FAILURE" in row[2]]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[2])} - {
        "FAILURE",
        "TimeLimitExceeded",
    }
    assert len(named) > 10
    assert all(issubclass(getattr(errors, name), errors.GpuQueueError) for name in named)


def test_the_reasons_that_are_tried_again_are_named() -> None:
    said = re.search(
        r"A new attempt is made after (.*?), and whenever",
        PAGE.section("### Why a job ended"),
        re.DOTALL,
    )
    assert said
    assert set(re.findall(r"`(\w+)`", said.group(1))) == {str(each) for each in TRY_AGAIN}


# -- settings --------------------------------------------------------------------------------------


def test_the_table_of_settings_has_each_with_its_default() -> None:
    assert {row[0]: row[1] for row in PAGE.table("## Settings")} == defaults(Settings.model_fields)


def test_every_setting_named_anywhere_in_the_docs_exists() -> None:
    known = {*defaults(Settings.model_fields), *defaults(ClusterSettings.model_fields)}
    whole: Any = dict.fromkeys(Record.__annotations__, "x")
    known |= {
        "GPUQUEUE_LAYOUT",
        *(each["name"] for each in executor_variables(whole, "ns/job", {}, "secret")),
    }
    for page in PAGES:
        named = set(re.findall(r"\b(?:GPUQUEUE|GPU|T4|MIG)_[A-Z][A-Z_]+[A-Z]\b", Page(page).text))
        named -= {str(reason) for reason in EndReason} | {"GPU_QUEUE"}  # the page
        assert named <= known, (page, named - known)


# -- classes ---------------------------------------------------------------------------------------


def example() -> str:
    (found,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    return found


def test_the_example_of_a_classes_file_is_one() -> None:
    made = from_toml(example(), "classes.toml")
    assert list(made) == list(tomllib.loads(example())["classes"])
    assert made["a100"].queues == ["gpu.a100"]
    assert made["t4"].queues == ["gpu.t4.shared", "gpu.t4.exclusive"]


def test_the_example_of_a_classes_file_deals_three_gpus() -> None:
    found = [Device(str(index), f"GPU-{index}", "T4", 2**34) for index in range(3)]
    dealt = deal(from_toml(example(), "classes.toml").values(), found)
    assert dealt == {"t4": ["GPU-0"], "a100": ["GPU-1", "GPU-2"]}


def test_the_table_of_class_fields_has_each_with_its_default() -> None:
    words = {
        "memory": "not known",
        "devices": "all left over",
        "exclusive_patience": "the setting",
        "shared_patience": "the setting",
        "image": "GPU_EXECUTOR_IMAGE",
        "node_selector": "none",
        "tolerations": "none",
        "cpu": "GPU_CPU_REQUEST",
        "host_memory": "GPU_MEMORY_REQUEST` and `GPU_MEMORY_LIMIT",
    }
    wanted = {
        each.name: words.get(each.name, str(each.default))
        for each in fields(GpuClass)
        if each.name != "name"
    }
    assert {row[0]: row[1] for row in PAGE.table("## The classes file")} == wanted
    assert set(words) <= set(wanted)
    assert all(
        each.default is not MISSING
        for each in fields(GpuClass)
        if each.name in set(wanted) - set(words)
    )


def test_the_table_of_gpu_arguments_has_each() -> None:
    arguments = [
        name
        for name, each in inspect.signature(gpu).parameters.items()
        if each.kind is not each.VAR_KEYWORD
    ]
    assert [row[0] for row in PAGE.table("## `gpuqueue.gpu(...)`")] == [*arguments, "any other"]


# -- pages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = Page(page).text
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        assert "://" not in target, f"{page}: {target} lies outside"
        path, _, part = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if part:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert part in [anchor(heading) for heading in headings], f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_no_folder_of_somebodys_machine(page: str) -> None:
    assert not re.search(r"(?<![\w.:/])/(?:home|root|work|tmp|usr|var|Users)/", Page(page).text)


def test_the_changelog_and_the_readme_name_every_command() -> None:
    for page in ("CHANGELOG.md", "README.md"):
        text = Page(page).text
        assert all(
            f"`{name}`" in text or f"gpuqueue {name}" in text for name in COMMANDS if name != "demo"
        ), page
    assert f"## [{gpuqueue.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_modules_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`([\w/]+\.(?:py|lua))`", text):
        assert (ROOT / path).exists() or (ROOT / "gpuqueue" / path).exists(), path
    for folder in re.findall(r"`((?:tests|gpuqueue|docs)/\w+)`", text):
        assert (ROOT / folder).is_dir(), folder
