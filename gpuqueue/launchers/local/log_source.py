"""The whole output of an attempt of this machine, as a source for the sink.

Never here: an attempt that still runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gpuqueue.launchers.base import LogGone, LogSource
from gpuqueue.launchers.local.identity import machine
from gpuqueue.launchers.local.output_file import noted, whole


class OutputLog:
    """The file of an output. See :class:`gpuqueue.launchers.base.LogSource`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def where(self) -> Mapping[str, str]:
        """Its file."""
        return noted(machine(), self._path)

    def read(self) -> Iterator[bytes]:
        """Yield its parts."""
        try:
            yield from whole(self._path)
        except FileNotFoundError as exc:
            raise LogGone(f"the file {self._path} is gone") from exc


def find(where: Mapping[str, str]) -> LogSource | None:
    """Return the source that :attr:`OutputLog.where` names, if it is of this machine."""
    if not where.get("path") or where.get("machine") != machine():
        return None
    return OutputLog(Path(where["path"]))
