"""The control URL: faults and views of the cluster for another process.

``POST /_double/<fault>`` with the arguments as a JSON object injects a fault. Others:

- ``GET /_double/pods`` and ``/_double/jobs``: the objects.
- ``GET /_double/requests``: the counts of requests.
- ``GET /_double/pids?pod=NAME`` and ``/_double/log?pod=NAME``: the processes and the output of a
  pod.
- ``POST /_double/image`` (``name``, ``env``, …): adds an image.
- ``POST /_double/preload`` (``jobs``): stores Jobs that run already.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.doubles.kubernetes.api.fault_injection import InjectedFault
from tests.doubles.kubernetes.api.request_log import RequestLog
from tests.doubles.kubernetes.api.server import CONTROL_PREFIX
from tests.doubles.kubernetes.faults import Faults
from tests.doubles.kubernetes.http.messages import Request, Response
from tests.doubles.kubernetes.nodes.images import Image
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.wire import decode, encode
from tests.doubles.kubernetes.views import Views

_FAULTS = {
    name for name, _ in inspect.getmembers(Faults, inspect.isfunction) if not name.startswith("_")
}


@dataclass(frozen=True, slots=True)
class Control:
    """Handles requests to the control URL.

    Args:
        views: the views of the cluster.
        faults: its faults.
        requests: its request log.
        images: its images by name.
        preload: stores Jobs that run already, in a namespace.
    """

    views: Views
    faults: Faults
    requests: RequestLog
    images: dict[str, Image]
    preload: Callable[[list[Any], str | None], list[str]]

    def handle(self, request: Request) -> Response:
        """Return 200 with the result of a request, or 400 with the error."""
        name = request.path.removeprefix(CONTROL_PREFIX)
        try:
            arguments = decode(request.body) if request.body else dict(request.query)
            read = request.method == "GET"
            result = self._read(name, arguments) if read else self._do(name, arguments)
        except (Refused, KeyError, TypeError, ValueError) as error:
            return Response(400, encode({"error": f"{type(error).__name__}: {error}"}))
        return Response(200, encode({"result": result}))

    def _read(self, name: str, arguments: dict[str, Any]) -> Any:
        match name:
            case "pods":
                return self.views.pods(arguments.get("namespace"))
            case "jobs":
                return self.views.jobs(arguments.get("namespace"))
            case "pids":
                return self.views.pids(arguments["pod"])
            case "log":
                return self.views.log(arguments["pod"], arguments.get("container", ""))
            case "requests":
                return [
                    {
                        "verb": verb,
                        "resource": resource,
                        "count": count.count,
                        "in": count.bytes_in,
                        "out": count.bytes_out,
                    }
                    for (verb, resource), count in self.requests.items().items()
                ]
        raise KeyError(name)

    def _do(self, name: str, arguments: dict[str, Any]) -> Any:
        if name == "image":
            image = arguments.pop("name")
            self.images[image] = Image(**arguments)
            return None
        if name == "preload":
            return self.preload(arguments["jobs"], arguments.get("namespace"))
        if name not in _FAULTS:
            raise KeyError(f"{name}; known: image, preload, {', '.join(sorted(_FAULTS))}")
        result = getattr(self.faults, name)(**arguments)
        return None if isinstance(result, InjectedFault) else result
