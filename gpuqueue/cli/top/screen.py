"""The terminal of ``gpuqueue top``: a full screen that follows its size, and keys."""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from gpuqueue.cli.top.feed import Feed
from gpuqueue.cli.view import render
from gpuqueue.cli.view.top_lines import draw

#: Seconds after which the size of the terminal is looked at again.
LOOK = 0.25
#: Seconds of one read after which the frame says that Redis does not answer.
SLOW = 1.0
_QUIT = {b"q", b"Q"}


def follow(console: Console, most: int, interval: float, only: str | None) -> None:
    """Show frame after frame until ``q``. Raises KeyboardInterrupt, and what ends the feed."""
    awake, wake = socket.socketpair()

    def changed() -> None:
        with suppress(OSError):  # closed: the screen has ended
            wake.send(b".")

    keys = f"every {interval:g} s, q: quit"
    with awake, wake, _keys() as keyboard, _quiet():
        with (
            Live(console=console, screen=True, auto_refresh=False) as live,
            Feed(most, interval, only, changed) as feed,
        ):
            shown: object = None
            while feed.news.fatal is None:
                # Not as COLUMNS and LINES have it: they do not follow.
                size = console.size = _size()
                # An age in the frame goes on while no frame comes.
                late = feed.news.problem or feed.waits() > SLOW
                second = int(time.monotonic()) if late else 0
                if (feed.news, size, second) != shown:
                    shown = (feed.news, size, second)
                    live.update(_frame(feed, size.width, size.height, keys), refresh=True)
                ready, _, _ = select.select([awake.fileno(), *keyboard], [], [], LOOK)
                if awake.fileno() in ready:
                    awake.recv(1024)
                for each in [*keyboard]:
                    if each in ready:
                        typed = os.read(each, 1)
                        if typed in _QUIT:
                            return
                        if not typed:  # its other end has gone
                            keyboard.remove(each)
        raise feed.news.fatal


def _frame(feed: Feed, width: int, height: int, keys: str) -> Text:
    news, problem, waits = feed.news, feed.news.problem, feed.waits()
    if not problem and waits > SLOW:
        problem = f"Redis has not answered for {waits:.0f} s"
    if problem and news.found is not None:
        age = render.duration(time.monotonic() - news.at)
        problem = f"{problem}; below is the state of {age} ago"
    if not problem and news.found is None:
        problem = "reading ..."
    return draw(news.found, width, height, problem=problem, keys=keys)


def _size() -> ConsoleDimensions:
    """Return the columns and lines of the terminal; of the usual one if it does not know them."""
    width, height = os.get_terminal_size(sys.stdout.fileno())
    return ConsoleDimensions(width or 80, height or 24)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep log lines off the screen: the frame says what they would."""
    logger, handler = logging.getLogger("gpuqueue"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _keys() -> Iterator[list[int]]:
    """Let keys come one by one, without an echo; yield where they come from, if there is one."""
    if not sys.stdin.isatty():
        yield []
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        # Ctrl-Z would leave the screen to the shell.
        keys = termios.tcgetattr(number)
        keys[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(number, termios.TCSANOW, keys)
        yield [number]
    finally:
        termios.tcsetattr(number, termios.TCSAFLUSH, before)
