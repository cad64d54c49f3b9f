"""Every page: its length, its links, the names in it, and the site that is built of all pages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import gpuqueue
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.classes.tenants_file import tenants_from_toml
from gpuqueue.classes.toml_file import from_toml
from gpuqueue.cli import COMMANDS
from gpuqueue.launchers.kubernetes.manifest.environment import executor_variables
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.warm_pod import WARM_POD
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.support.pages import PAGES, ROOT, Page, anchor, defaults

#: Words that a page may have at most.
LONGEST = 1500
LONGEST_README = 900
DOCS = [page for page in PAGES if page.startswith("docs/")]


@pytest.mark.parametrize("page", DOCS)
def test_a_page_has_at_most_1500_words(page: str) -> None:
    assert len(Page(page).text.split()) <= LONGEST


def test_the_readme_has_at_most_900_words() -> None:
    assert len(Page("README.md").text.split()) <= LONGEST_README


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
def test_pages_name_no_folder_of_a_machine_and_no_index(page: str) -> None:
    text = Page(page).text
    assert not re.search(r"(?<![\w.:/])/(?:home|root|work|tmp|usr|var|Users)/", text)
    assert not re.search(r"--(?:extra-)?index-url|/simple\b", text)


@pytest.mark.parametrize("page", DOCS)
def test_a_paragraph_has_one_sentence_a_line(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", Page(page).text, flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        if not re.match(r"\s*(\||[-*] |\d+\. |#|<!--|$)", line):
            assert not re.search(
                r"(?<!e\.g|i\.e)[.!?] (?=[A-Z])", re.sub(r"\*\*.*?\*\*", "", line)
            ), line


@pytest.mark.parametrize("page", PAGES)
def test_the_data_of_a_page_is_read_by_its_reader(page: str) -> None:
    for block in Page(page).blocks("toml"):
        if ".tenants." in block:
            assert tenants_from_toml(block, page, {"t4": GpuClass("t4", shared_slots=2)})
        else:
            assert from_toml(block, page)
    for block in Page(page).blocks("yaml"):
        assert all(isinstance(each, dict) for each in yaml.safe_load_all(block))


def test_the_navigation_has_every_page_once() -> None:
    text = re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text())

    def leaves(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        found = node.values() if isinstance(node, dict) else node
        return [leaf for each in found for leaf in leaves(each)]

    assert sorted(f"docs/{leaf}" for leaf in leaves(yaml.safe_load(text)["nav"])) == sorted(DOCS)


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


@pytest.mark.parametrize("page", DOCS)
def test_the_files_of_the_repository_that_a_page_names_exist(page: str) -> None:
    folders = "benchmarks|charts|deploy|docs|examples|gpuqueue|tests|workers"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", Page(page).text):
        assert (ROOT / path).exists(), path


def test_every_file_of_docs_that_code_and_manifests_name_exists() -> None:
    for folder in ("gpuqueue", "charts", "deploy", "benchmarks", "workers", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".yaml", ".txt", ".tpl", ".acl", ".md", ".json"}:
                for named in re.findall(r"\bdocs/[\w./-]+\.md\b", path.read_text()):
                    assert (ROOT / named).exists(), f"{path.relative_to(ROOT)}: {named}"


def test_every_setting_named_anywhere_in_the_docs_exists() -> None:
    known = {*defaults(Settings.model_fields), *defaults(ClusterSettings.model_fields)}
    whole: Any = dict.fromkeys(Record.__annotations__, "x")
    known |= {
        *("GPUQUEUE_LAYOUT", WARM_POD),
        *(each["name"] for each in executor_variables(whole, "ns/job", {}, "secret")),
    }
    for page in PAGES:
        named = set(re.findall(r"\b(?:GPUQUEUE|GPU|T4|MIG)_[A-Z][A-Z_]+[A-Z]\b", Page(page).text))
        named -= {str(reason) for reason in EndReason} | {"GPU_QUEUE"}  # the page
        assert named <= known, (page, named - known)


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(
        [*build, "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)\b[^>]*\bsrc=\"?([^\"\s>]+)|<link\b[^>]*\bhref=\"?([^\"\s>]+)",
            page.read_text(),
        )
        assert not [each for pair in loaded for each in pair if "//" in each], page.name
