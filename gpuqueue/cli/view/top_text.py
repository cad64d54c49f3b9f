"""Pieces of text of ``gpuqueue top``. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

Piece = Text | str


def words(text: str, style: str = "") -> list[Text]:
    """Return the words of a text."""
    return [Text(each, style) for each in text.split()]


def commas(parts: Sequence[Piece]) -> list[Text]:
    """Return the parts, each but the last with a comma."""
    ends = [*[","] * (len(parts) - 1), ""]
    return [Text.assemble(part, end) for part, end in zip(parts, ends, strict=True)]


def flow(
    parts: Sequence[Piece], width: int, *, first: str = "", indent: str = "", gap: str = " "
) -> Iterator[Text]:
    """Yield lines of the parts, as many in each as fit. The first begins with ``first``, the others
    with ``indent``.
    """
    line, empty = Text(first), True
    for part in parts:
        piece = part if isinstance(part, Text) else Text(part)
        if not empty and line.cell_len + len(gap) + piece.cell_len > width:
            yield line
            line, empty = Text(indent), True
        line.append_text(Text("" if empty else gap)).append_text(piece)
        empty = False
    if not empty:
        yield line


def cells(parts: Sequence[tuple[Piece, int]], gap: str = " ") -> Text:
    """Return one row of a table: each text with its width in columns, cut or filled up to it; a
    negative width puts the text at the right.
    """
    row = Text()
    for at, (part, width) in enumerate(parts):
        piece = part.copy() if isinstance(part, Text) else Text(part)
        piece.truncate(abs(width), overflow="ellipsis")
        fill = abs(width) - piece.cell_len
        row.append(gap if at else "")
        row.append_text(Text(" " * fill if width < 0 else ""))
        row.append_text(piece)
        row.append(" " * fill if width > 0 else "")
    row.rstrip()
    return row
