"""The logs of containers (``GET …/pods/NAME/log``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from tests.doubles.kubernetes import clock
from tests.doubles.kubernetes.http.messages import Send
from tests.doubles.kubernetes.objects.bodies import Body, containers_of
from tests.doubles.kubernetes.objects.errors import bad_request

#: Seconds between two reads of a log that a client follows.
READ = 0.1


class PodLogs:
    """Reads the output of containers.

    Args:
        folder: the parent of the pods' folders.
        ended: returns whether a container has ended, by the uid of its pod and its name.
    """

    def __init__(self, folder: Path, ended: Callable[[str, str], bool]) -> None:
        self._folder = folder
        self._ended = ended
        # Of each log: how long it was at each look. A line has the time of the first look after it.
        self._looks: dict[Path, list[tuple[int, float]]] = {}

    def check(self, pod: Body, query: Mapping[str, str]) -> None:
        """Check that a container has a log.

        Raises:
            Refused: 400, it has none.
        """
        name = self._container(pod, query)
        where = pod["metadata"]["name"]
        statuses = [
            *pod["status"].get("initContainerStatuses", ()),
            *pod["status"].get("containerStatuses", ()),
        ]
        status = next((item for item in statuses if item["name"] == name), None)
        if not pod["spec"].get("nodeName"):
            raise bad_request(f"pod {where} does not have a host assigned")
        waiting = None if status is None else status["state"].get("waiting")
        if waiting is not None:
            message = {
                "ContainerCreating": "ContainerCreating",
                "PodInitializing": "PodInitializing",
                "ErrImagePull": "image can't be pulled",
                "ImagePullBackOff": "trying and failing to pull image",
            }.get(waiting["reason"], waiting["reason"])
            raise bad_request(f'container "{name}" in pod "{where}" is waiting to start: {message}')

    def stream(
        self, pod: Body, query: Mapping[str, str], send: Send, gone: Callable[[], bool]
    ) -> None:
        """Send the log of a container; with ``follow``, until the container has ended."""
        name, uid = self._container(pod, query), pod["metadata"]["uid"]
        path = self._folder / uid / name / "log"
        limit = int(query.get("limitBytes") or 1 << 62)
        start = _start(path, query.get("tailLines"))
        self._look(path)
        if query.get("timestamps") == "true":
            send(self._with_times(path, start, query.get("sinceTime"))[:limit])
            return
        follow = query.get("follow") == "true"
        while True:
            over = not follow or self._ended(uid, name)
            data = _read(path, start, limit)
            start, limit = start + len(data), limit - len(data)
            if data and not send(data):
                return
            if over or not limit or gone():
                return
            time.sleep(READ)

    def _look(self, path: Path) -> None:
        size = path.stat().st_size if path.exists() else 0
        self._looks.setdefault(path, []).append((size, clock.now()))

    def _with_times(self, path: Path, start: int, since: str | None) -> bytes:
        """Return the lines from an offset on that are not older than a time, each with its own."""
        oldest = datetime.fromisoformat(since).timestamp() if since else 0.0
        found = b""
        for line in _read(path, start, 1 << 62).splitlines(keepends=True):
            start += len(line)
            at = next((at for size, at in self._looks[path] if size >= start), clock.now())
            if at >= oldest:
                found += f"{datetime.fromtimestamp(at, UTC).isoformat()} ".encode() + line
        return found

    def _container(self, pod: Body, query: Mapping[str, str]) -> str:
        names = [container["name"] for container in containers_of(pod["spec"])]
        name = query.get("container") or ""
        where = pod["metadata"]["name"]
        if name and name not in names:
            raise bad_request(f"container {name} is not valid for pod {where}")
        main = [container["name"] for container in pod["spec"]["containers"]]
        if not name and len(main) > 1:
            listed = " ".join(main)
            raise bad_request(
                f"a container name must be specified for pod {where}, choose one of: [{listed}]"
            )
        return name or str(main[0])


def _start(path: Path, lines: str | None) -> int:
    """Return the offset of the last ``lines`` lines."""
    if lines is None or not path.exists():
        return 0
    data = path.read_bytes()
    if int(lines) == 0:
        return len(data)
    kept = data.splitlines(keepends=True)[-int(lines) :]
    return len(data) - sum(len(line) for line in kept)


def _read(path: Path, start: int, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(min(limit, 1 << 26))
    except OSError:
        return b""
