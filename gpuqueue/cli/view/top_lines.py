"""The lines of a frame of ``gpuqueue top``. Pure: the same data and size, the same lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rich.text import Text

from gpuqueue.cli.view.render import plain
from gpuqueue.cli.view.top_classes import (
    aside_lines,
    choose,
    class_lines,
    hidden_classes,
    legend,
)
from gpuqueue.cli.view.top_rows import running_rows, tenant_rows, waiting_rows
from gpuqueue.cli.view.top_text import Piece, commas, flow, words
from gpuqueue.cli.view.words import NO_DISPATCHER_EVER, NO_DISPATCHER_NOW


class Rows(NamedTuple):
    """How many rows lists may have, and whether empty lines stand between them."""

    boxes: int
    waiting: int
    running: int
    tenants: int
    spaced: bool = True


#: What is printed once.
_ONCE = Rows(8, 5, 10, 5)
#: What a height may get: the first that fits.
_STEPS = (
    *(Rows(8, rows, 2 * rows, 5) for rows in (50, 40, 30, 24, 20, 16, 13, *range(11, 3, -1))),
    *(Rows(4, 3, 6, 2), Rows(3, 2, 4, 1), Rows(2, 2, 3, 1)),
    *(Rows(2, *rows, False) for rows in ((2, 3, 1), (1, 2, 1), (1, 1, 1), (1, 1, 0), (1, 0, 0))),
    Rows(1, 0, 0, 0, False),
)
#: The most classes that are printed once; a terminal gets fewer.
_CLASSES = 100
#: The most dispatchers and queues that are named.
_NAMED = 4
#: Columns below which nothing is drawn to fit.
NARROWEST = 40


def draw(
    found: Mapping[str, Any] | None,
    width: int,
    height: int | None = None,
    *,
    problem: str = "",
    keys: str = "",
) -> Text:
    """Return a frame of at most ``width`` columns and ``height`` lines (None: as many as needed).

    Args:
        found: the data of the frame; None: nothing was read yet.
        problem: why the data are old, or absent.
        keys: what the first line ends with.
    """
    width = max(width, NARROWEST)
    most = _CLASSES if height is None else max(1, height // 4)
    shown = choose(found["classes"] if found else [], most)
    for rows in (_ONCE,) if height is None else _STEPS:
        made = [*_lines(found, shown, width, rows, problem, keys)]
        if height is None or len(made) <= height:
            break
    if height is not None and len(made) > height:
        hidden = len(made) - height + 1
        made = [
            *made[: height - 1],
            Text(f"and {hidden} more lines: use a taller terminal, or --class", "dim"),
        ]
    for line in made:
        line.truncate(width, overflow="ellipsis")
        line.rstrip()
    return Text("\n", no_wrap=True, end="").join(made)


def _lines(
    found: Mapping[str, Any] | None,
    shown: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]],
    width: int,
    rows: Rows,
    problem: str,
    keys: str,
) -> Iterator[Text]:
    yield _head(found, width, keys)
    if problem:
        yield from flow(words(plain(problem), "bold red"), width)
    if found is None:
        return
    now = found["now"]
    yield from _dispatchers(found, width)
    classes, hidden = shown
    for each in classes:
        if rows.spaced:
            yield Text()
        yield from class_lines(each, width, rows.boxes)
    if hidden:
        yield Text(f"{hidden_classes(hidden)} (--class)", "dim")
    yield from flow(legend(classes), width, first="  ", indent="  ", gap="  ")
    yield from aside_lines(found["classes"], now, rows.boxes)
    names = {each["name"] for each in classes}
    lines = [each for each in found["next"] if each["gpu_class"] in names]
    sections = (
        (rows.waiting, waiting_rows(lines, now, width, rows.waiting)),
        (rows.running, running_rows(found["running"], now, width, rows.running)),
        (rows.tenants, tenant_rows(found, width, rows.tenants)),
    )
    for section in [[*each] for most, each in sections if most]:
        if section and rows.spaced:
            yield Text()
        yield from section


def _head(found: Mapping[str, Any] | None, width: int, keys: str) -> Text:
    clock = ""
    if found is not None:
        clock = f"  {datetime.fromtimestamp(found['now'], UTC):%Y-%m-%d %H:%M:%S} UTC"
    made = Text.assemble(("gpuqueue top", "bold"), clock)
    if keys:
        made.append(" " * max(2, width - made.cell_len - len(keys)))
        made.append(keys, "dim")
    return made


def _dispatchers(found: Mapping[str, Any], width: int) -> Iterator[Text]:
    alive, leaders = found["dispatchers"], found["leaders"]
    if found.get("only") and not found["classes"]:
        name = plain(found["only"])
        yield Text(f"class {name!r} is unknown; see `gpuqueue classes`", "yellow")
    if not alive:
        told = NO_DISPATCHER_NOW if found["classes"] or found.get("only") else NO_DISPATCHER_EVER
        yield from flow(words(told, "bold red"), width)
    else:
        names = [f"{plain(each)} (leads)" for each in alive if each in leaders]
        names += [plain(each) for each in alive if each not in leaders]
        more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
        named: list[Piece] = ["dispatchers:", *commas([*names[:_NAMED], *more])]
        yield from flow(named, width, indent="  ")
        if not leaders:
            yield Text("no dispatcher leads at present", "yellow")
    queues = [*found["unaccepted"].items()]
    if queues[_NAMED:]:
        rest = sum(total for _, total in queues[_NAMED - 1 :])
        queues[_NAMED - 1 :] = [(f"{len(queues) - _NAMED + 1} other queues", rest)]
    for queue, total in queues:
        yield Text(f"{total} in {plain(queue)} not yet taken by a dispatcher", "yellow")
