"""A hook of MkDocs: a link to a file outside of ``docs`` becomes its text.

Such a link serves readers of the repository; the site has no such file.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of a page without links that leave ``docs``."""
    folder = posixpath.dirname(page.file.src_uri)

    def keep(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        return link[1] if target.startswith("..") else link[0]

    return _LINK.sub(keep, markdown)
