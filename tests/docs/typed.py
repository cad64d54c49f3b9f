"""The pages whose commands tests run, and what the pages contain."""

from __future__ import annotations

import re

from tests.support.pages import PAGES as EVERY_PAGE
from tests.support.pages import Page

#: Pages about production: their commands for the cluster are those of the manifests.
PRODUCTION = [
    "docs/GPU.md",
    *(page for page in EVERY_PAGE if page.startswith("docs/operate/")),
]
#: All pages with commands; test_deployment_pages.py checks the page of the chart.
PAGES = [page for page in EVERY_PAGE if not page.startswith("charts/")]
QUICKSTART = "docs/quickstart.md"
#: The broker that the pages tell people to use.
BROKER = "redis://localhost:6379/0"
#: The first words of commands within sentences.
PROGRAMS = (
    *("make", "gpuqueue", "celery", "python", "pip", "redis-server"),
    *("export", "docker", "kubectl", "helm"),
)


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return Page(page).blocks(language)


def commands(page: str) -> list[str]:
    """Each line of the page's shell blocks, and each code span of the form of a command."""
    text = re.sub(r"^```.*?^```", "", Page(page).text, flags=re.MULTILINE | re.DOTALL)
    typed = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [each for each in typed + in_words(text) if each != "celery -A"]


def in_words(text: str) -> list[str]:
    """Each code span of the form of a command."""
    return [
        each
        for each in re.findall(r"`([^`\n]+)`", text)
        if each.split()[0] in PROGRAMS and " " in each
    ]


_README = blocks("README.md", "sh")
(DISPATCHER,) = [block for block in _README if "-A gpuqueue worker" in block]
(CALL,) = [block for block in _README if "import shop" in block]
(LOOK,) = blocks("docs/howto/inspect.md", "sh")
(SHOP,) = blocks("README.md", "python")
