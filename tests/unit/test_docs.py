"""The tables and the diagram of the docs hold what the code holds: none missing, none stale."""

from __future__ import annotations

import inspect
import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

import gpuqueue
from gpuqueue import errors
from gpuqueue.classes import GpuClass, from_toml
from gpuqueue.cli import COMMANDS
from gpuqueue.devices import Device, deal
from gpuqueue.errors import SettingsError
from gpuqueue.node import Node
from gpuqueue.options import gpu
from gpuqueue.reasons import TRY_AGAIN, EndReason, WaitReason
from gpuqueue.settings import Settings
from gpuqueue.states import DISPATCHED, MOVES, QUEUED, JobState

ROOT = Path(gpuqueue.__file__).parent.parent
PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", *sorted(str(each.relative_to(ROOT)) for each in ROOT.glob("docs/*.md"))]
TEXT = (ROOT / "docs" / "GPU_QUEUE.md").read_text()
LATER = {"with Kubernetes", "with tenants", "later"}


def section(heading: str) -> str:
    """The text under a heading, up to the next one of its rank or above."""
    marks = heading.partition(" ")[0]
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(marks)}}} |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found.group(1)


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, without its header; code marks taken off the first two cells."""
    lines = next(each for each in section(heading).split("\n\n") if each.lstrip().startswith("|")).strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return [[*(cell.strip("`") for cell in row[:2]), *row[2:]] for row in cells]


def anchor(heading: str) -> str:
    """A heading's link, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# -- states ------------------------------------------------------------------------------------------------------------


def test_the_diagram_shows_every_move_and_no_other() -> None:
    wanted = {f"{before} --> {after}" for before, afters in MOVES.items() for after in afters}
    diagram = re.search(r"```mermaid\nstateDiagram-v2\n(.*?)```", TEXT, re.DOTALL)
    assert diagram
    shown = [line.strip() for line in diagram.group(1).strip().splitlines()]
    ends = {f"[*] --> {JobState.ACCEPTED}", f"{JobState.ENDED} --> [*]"}
    assert sorted(shown) == sorted(wanted | ends)


def test_the_table_of_states_has_each_once_in_order() -> None:
    rows = table("## States")
    assert [row[0] for row in rows] == [str(state) for state in JobState]
    told = " ".join(row[2] for row in rows)
    assert QUEUED in told and DISPATCHED in told


# -- reasons -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "reasons"), [("### Why a job waits", WaitReason), ("### Why a job ended", EndReason)], ids=["waits", "ends"]
)
def test_the_table_of_reasons_has_each_once(heading: str, reasons: Any) -> None:
    assert sorted(row[0] for row in table(heading)) == sorted(str(reason) for reason in reasons)


@pytest.mark.parametrize("heading", ["### Why a job waits", "### Why a job ended"])
def test_a_reason_is_said_to_be_of_today_where_some_code_makes_it(heading: str) -> None:
    ours = [*ROOT.glob("gpuqueue/**/*.py"), *ROOT.glob("gpuqueue/**/*.lua")]
    code = "\n".join(path.read_text() for path in ours if path.name != "reasons.py" and path.parent.name != "cli")
    for row in table(heading):
        made = bool(re.search(rf"'{row[0]}'|Reason\.{row[0]}\b", code))
        told = row[-1] == "yes" or row[0] == EndReason.BAD_SPEC  # the dispatcher knows it; no launcher of today refuses
        assert made == told, f"{row[0]}: made={made}, the docs say {row[-1]!r}"
        assert row[-1] in LATER | {"yes"}


def test_errors_named_beside_reasons_exist() -> None:
    named = set(re.findall(r"`(\w+(?:Failed|Died|Timeout|Job|Message|Mismatch))`", TEXT))
    assert named
    assert all(hasattr(errors, name) for name in named)


def test_the_reasons_that_are_tried_again_are_named() -> None:
    said = re.search(r"A new attempt is made after (.*?), and whenever", section("### Why a job ended"), re.DOTALL)
    assert said
    assert set(re.findall(r"`(\w+)`", said.group(1))) == {str(each) for each in TRY_AGAIN}


# -- settings ----------------------------------------------------------------------------------------------------------


def alias(field: FieldInfo) -> str:
    choices: Any = field.validation_alias
    (name,) = choices.choices
    return str(name)


def shown(default: object) -> str:
    return "not set" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def test_the_table_of_settings_has_each_with_its_default() -> None:
    wanted = {alias(field): shown(field.default) for field in Settings.model_fields.values()}
    assert {row[0]: row[1] for row in table("## Settings")} == wanted


def test_every_setting_named_anywhere_in_the_docs_exists() -> None:
    known = {alias(field) for field in Settings.model_fields.values()}
    for page in PAGES:
        named = set(re.findall(r"\b(?:GPUQUEUE|GPU|T4|MIG)_[A-Z][A-Z_]+[A-Z]\b", (ROOT / page).read_text()))
        named -= {str(reason) for reason in EndReason} | {"GPU_QUEUE"}  # the page
        assert named <= known, (page, named - known)


def test_the_mode_that_is_refused_is_refused_in_the_words_of_the_docs() -> None:
    settings = Settings(CELERY_BROKER_URL="redis://localhost:6379/0", GPUQUEUE_APP="shop", GPU_EXECUTION_MODE="k8s_job")
    with pytest.raises(SettingsError) as refused:
        Node(None, settings, "dispatcher")
    assert f"`{refused.value}`" in TEXT


# -- classes -----------------------------------------------------------------------------------------------------------


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
    wanted = {field.name: field.default for field in fields(GpuClass) if field.name != "name"}
    rows = {row[0]: row[1] for row in table("## The classes file")}
    assert rows.keys() == wanted.keys()
    words = {
        "memory": "not known",
        "devices": "all left over",
        "exclusive_patience": "the setting",
        "shared_patience": "the setting",
    }
    assert rows == {name: words.get(name, str(default)) for name, default in wanted.items() if default is not MISSING}


def test_the_table_of_gpu_arguments_has_each() -> None:
    arguments = [name for name, each in inspect.signature(gpu).parameters.items() if each.kind is not each.VAR_KEYWORD]
    assert [row[0] for row in table("## `gpuqueue.gpu(...)`")] == [*arguments, "any other"]


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
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
    assert not re.search(r"(?<![\w.:/])/(?:home|root|work|tmp|usr|var|Users)/", (ROOT / page).read_text())


def test_the_changelog_and_the_readme_name_every_command() -> None:
    for page in ("CHANGELOG.md", "README.md"):
        text = (ROOT / page).read_text()
        assert all(f"`{name}`" in text or f"gpuqueue {name}" in text for name in COMMANDS if name != "demo"), page
    assert f"## [{gpuqueue.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_modules_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`([\w/]+\.(?:py|lua))`", text):
        assert (ROOT / path).exists() or (ROOT / "gpuqueue" / path).exists(), path
    for folder in re.findall(r"`((?:tests|gpuqueue|docs)/\w+)`", text):
        assert (ROOT / folder).is_dir(), folder
