"""The reference pages hold what the code holds: nothing is missing, nothing is stale."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import fields
from typing import Any

import pytest

from docs.generate import chart
from docs.generate.errors import classes
from docs.generate.markdown import sentence
from docs.generate.pages import FOLDER, PAGES
from docs.generate.reasons import errors_of
from docs.generate.source import field_docs, prose
from gpuqueue import errors
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli import COMMANDS
from gpuqueue.model.reasons import NEVER_AGAIN, TRY_AGAIN, EndReason, WaitReason
from gpuqueue.model.states import MOVES, JobState
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.support.pages import Page, defaults

REASONS = Page("docs/reference/reasons.md")
WAITS, ENDS = (
    REASONS.tables(heading)[0] for heading in ("## Why a job waits", "## Why a job ended")
)


@pytest.mark.parametrize("name", PAGES)
def test_a_committed_page_is_the_generated_page(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), "run: python -m docs.generate"


def rows(path: str) -> list[list[str]]:
    """The rows of the first table of a page, without code marks."""
    page = Page(path)
    found = page.tables(page.title)[0]
    return [[cell.replace("`", "") for cell in row] for row in found]


# -- settings and classes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "settings"),
    [(("settings", "class-settings"), Settings), (("kubernetes-settings",), ClusterSettings)],
    ids=["dispatcher", "kubernetes"],
)
def test_the_tables_of_settings_have_each_once_with_its_default(
    pages: tuple[str, ...], settings: Any
) -> None:
    found = [row for page in pages for row in rows(f"docs/reference/{page}.md")]
    assert len(found) == len(settings.model_fields)
    assert {row[0]: row[1] for row in found} == defaults(settings.model_fields)
    assert all(len(row[3]) > 10 for row in found)


def test_the_values_of_a_setting_are_its_bounds_or_its_choices() -> None:
    pages = ("settings", "class-settings")
    values = {row[0]: row[2] for page in pages for row in rows(f"docs/reference/{page}.md")}
    assert values["GPUQUEUE_MAX_ATTEMPTS"] == "whole number from 1 to 100"
    assert values["GPUQUEUE_START_TIMEOUT"] == "number above 0 to 86400"
    assert values["GPU_EXECUTION_MODE"] == "local, k8s_job"
    assert values["GPUQUEUE_CLASSES_FILE"] == "path"


def test_the_table_of_class_fields_has_each_with_its_default() -> None:
    settings = {
        "exclusive_patience": "GPUQUEUE_EXCLUSIVE_PATIENCE",
        "shared_patience": "GPUQUEUE_SHARED_PATIENCE",
        "warm_seconds": "GPUQUEUE_WARM_SECONDS",
        "warm_jobs": "GPUQUEUE_WARM_JOBS",
        "warm_age": "GPUQUEUE_WARM_AGE_SECONDS",
        "held_timeout": "GPU_HELD_TIMEOUT",
        "price_per_hour": "GPUQUEUE_PRICE_PER_HOUR",
    }
    unset = {
        *("memory", "devices", "domain", "nodes", "image", "node_selector", "tolerations"),
        "scale_to",
        *("cpu", "host_memory", "shm_size", "ephemeral_storage", "pod_template"),
        *("runtime_class", "priority_class", "service_account", "namespace"),
        "secret_name",
        *("quota_timeout", "unschedulable_timeout", "image_pull_timeout", "start_timeout"),
        *("default_time_limit", "max_time_limit", "larger"),
    }
    wanted = {
        each.name: settings.get(each.name)
        or ("not set" if each.name in unset else str(each.default))
        for each in fields(GpuClass)
        if each.name not in ("name", "domains")
    }
    assert {row[0]: row[2] for row in rows("docs/reference/classes-file.md")} == wanted


def test_the_pages_of_the_chart_have_every_value_once() -> None:
    found = [
        row[0].strip("`")
        for name in ("chart-values", "chart-operations")
        for row in re.findall(
            r"^\| (`[\w.]+`)() ", Page(f"docs/reference/{name}.md").text, re.MULTILINE
        )
    ]
    page = Page("docs/reference/chart-dispatchers.md")
    found += [f"dispatcherDefaults.{row[0]}" for row in page.table(page.title)]
    assert sorted(found) == sorted(chart.values())
    assert all(len(description) > 10 for _, description, _ in chart.values().values())


# -- states and reasons ----------------------------------------------------------------------------


def test_the_table_of_states_has_every_move_and_no_other() -> None:
    found = rows("docs/reference/states.md")
    assert [row[0] for row in found] == [str(state) for state in JobState]
    moves = {row[0]: set(filter(None, row[2].split(", "))) for row in found}
    assert moves == {str(state): {str(each) for each in after} for state, after in MOVES.items()}


def test_the_drawing_of_states_has_every_move_and_no_other() -> None:
    drawing = ET.parse(FOLDER / "states.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert {each.text for each in drawing.iter(f"{space}text")} == {str(each) for each in JobState}
    arrows = [each.text or "" for each in drawing.iter(f"{space}title")]
    assert sorted(arrows) == sorted(
        f"{before} → {after}" for before, afters in MOVES.items() for after in afters
    )


@pytest.mark.parametrize(
    ("table", "reasons"), [(WAITS, WaitReason), (ENDS, EndReason)], ids=["waits", "ends"]
)
def test_the_table_of_reasons_has_each_once(table: list[list[str]], reasons: Any) -> None:
    assert [row[0].strip("`") for row in table] == [str(reason) for reason in reasons]
    assert all(row[1].endswith(".") and len(row[1]) > 10 for row in table)


def test_a_reason_names_the_mode_whose_code_gives_it() -> None:
    waits = {row[0].strip("`"): row[-1] for row in WAITS}
    ends = {row[0].strip("`"): row[-1] for row in ENDS}
    for name in ("NO_FREE_SLOT", "EXCLUSIVE_RUNNING", "SHARED_RUNNING", "DRAINING_FOR_EXCLUSIVE"):
        assert waits[name] == "both"
    for name in ("TURN_OF_SHARED", "REPAIRING", "BEHIND_OTHERS", "NOT_BEFORE", "STARTING"):
        assert waits[name] == "both"
    assert waits["TENANT_LIMIT"] == "both"
    for name in ("UNSCHEDULABLE", "PULLING_IMAGE", "LAUNCH_REFUSED", "QUOTA", "UNCONFIRMED"):
        assert waits[name] == "`k8s_job`"
    for name in ("NODE_SET_ASIDE", "NODE_SILENT"):
        assert waits[name] == "`k8s_job`"
    of_pods = {
        *("BAD_SPEC", "HOST_OOM", "IMAGE", "UNSCHEDULABLE", "QUOTA"),
        *("EVICTED", "PREEMPTED", "NODE_LOST", "POD_DELETED"),
    }
    assert {name for name, where in ends.items() if where == "`k8s_job`"} == of_pods
    assert set(ends.values()) == {"both", "`k8s_job`"}


def test_errors_beside_reasons_exist_and_end_only_failures() -> None:
    named: set[str] = set()
    for row in ENDS:
        found = errors_of(EndReason(row[0].strip("`")))
        assert ("FAILURE" in row[2]) == bool(found or row[0] == "`GPU_OOM`")
        assert all(f"`{name}`" in row[2] for name in found)
        named.update(found)
    named.remove("TimeLimitExceeded")  # of Celery
    assert len(named) > 10
    assert all(issubclass(getattr(errors, name), errors.GpuQueueError) for name in named)


def test_a_new_attempt_follows_the_reasons_of_the_infrastructure() -> None:
    again = {row[0].strip("`"): row[3] for row in ENDS}
    follows = {name for name, answer in again.items() if answer == "yes"}
    assert follows == {*TRY_AGAIN, EndReason.REQUEUED, EndReason.ESCALATED}
    assert all(again[name] == "no" for name in NEVER_AGAIN)


# -- errors and commands ---------------------------------------------------------------------------


def test_the_table_of_errors_has_each_public_error() -> None:
    assert [row[0] for row in rows("docs/reference/errors.md")] == [
        each.__name__ for each in classes()
    ]
    assert {each.__name__ for each in classes()} >= {"InvalidJob", "ExecutorDied", "LaunchFailed"}


def test_the_page_of_the_command_line_has_each_command() -> None:
    text = "".join(Page(f"docs/reference/{name}.md").text for name in ("cli", "cli-mend"))
    assert sorted(re.findall(r"^## gpuqueue ([\w-]+)$", text, re.MULTILINE)) == sorted(COMMANDS)
    assert "| `--most INTEGER RANGE` |" in text


# -- the generator ---------------------------------------------------------------------------------


def test_a_description_is_the_string_below_its_field() -> None:
    assert field_docs(JobState)["WAITING"] == "In line for a slot."


def test_names_in_descriptions_are_marked_as_code() -> None:
    assert prose("of ``t4``,\n  see GPUQUEUE_APP") == "of `t4`, see `GPUQUEUE_APP`"
    assert prose("Raises :class:`SettingsError`.") == "Raises `SettingsError`."
    assert sentence("it ended") == "It ended."
