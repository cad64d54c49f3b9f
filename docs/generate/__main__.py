"""Write every reference page."""

from __future__ import annotations

import sys

from docs.generate.pages import FOLDER, PAGES


def main() -> None:
    """Write the pages, and name those that changed."""
    for name, make in PAGES.items():
        path, text = FOLDER / name, make()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"written: {path.relative_to(FOLDER.parent.parent)}\n")


if __name__ == "__main__":
    main()
