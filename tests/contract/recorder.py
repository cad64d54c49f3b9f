"""A plain client of an API server: requests one by one, and a recorder of watches, as ``record.py``
has it.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import urlsplit

from tests.doubles.kubernetes import Cluster
from tests.support.waiting import PATIENCE

Row = dict[str, Any]


class Client:
    """Sends requests to an API server, each over a new connection, as the owner of a token."""

    def __init__(self, cluster: Cluster, token: str = "") -> None:
        self._url = urlsplit(cluster.url)
        self.token = token or cluster.token

    def open(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        accept: str = "application/json",
        content: str = "application/json",
    ) -> http.client.HTTPResponse:
        """Send a request; the answer is still to be read."""
        connection = http.client.HTTPConnection(
            self._url.hostname or "", self._url.port, timeout=PATIENCE
        )
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Accept": accept,
            "Content-Type": content,
        }
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        answer.connection = connection  # type: ignore[attr-defined]
        return answer

    def ask(
        self, method: str, path: str, body: Any = None, **how: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (parsed, if it is JSON) and headers of an answer."""
        answer = self.open(method, path, body, **how)
        text = answer.read().decode()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        answer.connection.close()  # type: ignore[attr-defined]
        try:
            return answer.status, json.loads(text), headers
        except ValueError:
            return answer.status, text, headers

    def lines(self, path: str) -> Generator[dict[str, Any]]:
        """The events of a watch, until it ends."""
        answer = self.open("GET", path)
        try:
            for line in answer:
                yield json.loads(line)
        finally:
            answer.close()
            answer.connection.close()  # type: ignore[attr-defined]


class Recorder:
    """Follows the Jobs, Pods and Events of a namespace, and sends requests; ``rows`` are as in the
    recordings.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.client = Client(cluster)
        self.rows: list[Row] = []
        self._more = threading.Condition()
        self._began = time.monotonic()
        self._open: list[http.client.HTTPResponse] = []
        self.jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self.pods = f"/api/v1/namespaces/{namespace}/pods"
        for kind, path in (
            ("jobs", self.jobs),
            ("pods", self.pods),
            ("events", f"/api/v1/namespaces/{namespace}/events"),
        ):
            answer = self.client.open("GET", f"{path}?watch=true&timeoutSeconds=600")
            self._open.append(answer)
            threading.Thread(target=self._follow, args=(kind, answer), daemon=True).start()

    def close(self) -> None:
        """Follow no more."""
        self.cluster.faults.drop_watches()

    def ask(
        self, method: str, path: str, body: Any = None, note: str = "", **how: str
    ) -> tuple[int, Any]:
        """Send a request; a refusal, and what has a ``note``, becomes a row."""
        status, answer, headers = self.client.ask(method, path, body, **how)
        if status >= 400 or note:
            self._add(
                {
                    "request": note or f"{method} {path}",
                    "status": status,
                    "headers": headers,
                    "body": answer,
                }
            )
        return status, answer

    def until(self, predicate: Callable[[Row], bool], seconds: float = PATIENCE) -> Row:
        """Wait for a row."""
        found: list[Row] = []

        def holds() -> bool:
            found[:] = [row for row in self.rows if predicate(row)][:1]
            return bool(found)

        self.wait(holds, seconds)
        return found[0]

    def wait(self, holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until something is true of the rows."""
        with self._more:
            assert self._more.wait_for(holds, seconds), (
                f"did not come; the last rows: {self.rows[-5:]}"
            )

    def pod(self, prefix: str = "") -> str:
        """The name of the first pod that was seen."""
        names: list[str] = [
            row["object"]["metadata"]["name"] for row in self.rows if row.get("watch") == "pods"
        ]
        return next(name for name in names if name.startswith(prefix))

    def _follow(self, kind: str, answer: http.client.HTTPResponse) -> None:
        try:
            for line in answer:
                self._add({"watch": kind, **json.loads(line)})
        except (OSError, ValueError, http.client.HTTPException):  # the cluster is closed
            pass
        finally:
            answer.connection.close()  # type: ignore[attr-defined]

    def _add(self, row: Row) -> None:
        with self._more:
            self.rows.append({"t": round(time.monotonic() - self._began, 3), **row})
            self._more.notify_all()
