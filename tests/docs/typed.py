"""The pages whose commands tests run, and what the pages contain."""

from __future__ import annotations

import re

from tests.docs.test_deployment_pages import PAGES as OPERATORS
from tests.docs.test_deployment_pages import PARTLY
from tests.support.pages import PAGES as EVERY_PAGE
from tests.support.pages import Page

#: test_deployment_pages.py checks the pages for operators of clusters, and that of the chart.
PAGES = [
    page
    for page in EVERY_PAGE
    if page not in [each.path for each in OPERATORS] and not page.startswith("charts/")
]
QUICKSTART = "docs/quickstart.md"
#: The broker that the pages tell people to use.
BROKER = "redis://localhost:6379/0"
#: The first words of commands within sentences.
PROGRAMS = (
    *("make", "gpuqueue", "celery", "python", "pip", "redis-server"),
    *("export", "docker", "kubectl"),
)


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return Page(page).blocks(language)


def commands(page: str) -> list[str]:
    """Each line of the page's shell blocks, and each code span of the form of a command."""
    text = re.sub(r"^```.*?^```", "", Page(page).text, flags=re.MULTILINE | re.DOTALL)
    typed = [line for block in blocks(page, "sh") for line in block.splitlines()]
    inline = [
        each
        for each in re.findall(r"`([^`\n]+)`", text)
        if each.split()[0] in PROGRAMS and " " in each
    ]
    # test_deployment_pages.py checks how these pages deploy.
    elsewhere = ("helm ", "kubectl ") if page in [each.path for each in PARTLY] else ()
    return [
        each for each in typed + inline if each != "celery -A" and not each.startswith(elsewhere)
    ]


_README = blocks("README.md", "sh")
(DISPATCHER,) = [block for block in _README if "-A gpuqueue worker" in block]
(CALL,) = [block for block in _README if "import shop" in block]
(LOOK,) = blocks("docs/howto/inspect.md", "sh")
(SHOP,) = blocks("README.md", "python")
