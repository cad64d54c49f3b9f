"""Faults over HTTP, for another process: ``POST /_double/<fault>`` with its arguments as a JSON
object.

``GET /_double/pods`` and ``/_double/jobs`` list objects, ``/_double/requests`` tells what was
asked, ``/_double/pids?pod=NAME`` and ``/_double/log?pod=NAME`` give the processes and the output of
a pod; ``POST /_double/image`` (``name``, ``env``, …) adds an image, ``/_double/preload`` (``jobs``)
Jobs that run already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.doubles.kubernetes.api.fault_injection import Rule
from tests.doubles.kubernetes.faults import Faults
from tests.doubles.kubernetes.http.messages import Answer, Request
from tests.doubles.kubernetes.nodes.images import Image
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.wire import decode, encode

if TYPE_CHECKING:
    from tests.doubles.kubernetes.cluster import Cluster

_PREFIX = "/_double/"
_FAULTS = {name for name in vars(Faults) if not name.startswith("_")}


class Control:
    """Answers such requests."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def answer(self, request: Request) -> Answer:
        """Do what is asked for: 200 with what it gives, 400 with why not."""
        name = request.path.removeprefix(_PREFIX)
        try:
            arguments = decode(request.body) if request.body else dict(request.query)
            result = (
                self._read(name, arguments)
                if request.method == "GET"
                else self._do(name, arguments)
            )
        except (Refused, KeyError, TypeError, ValueError) as error:
            return Answer(400, encode({"error": f"{type(error).__name__}: {error}"}))
        return Answer(200, encode({"result": result}))

    def _read(self, name: str, arguments: dict[str, Any]) -> Any:
        match name:
            case "pods":
                return self._cluster.pods(arguments.get("namespace"))
            case "jobs":
                return self._cluster.jobs(arguments.get("namespace"))
            case "pids":
                return self._cluster.pids(arguments["pod"])
            case "log":
                return self._cluster.log(arguments["pod"], arguments.get("container", ""))
            case "requests":
                tallies = self._cluster.requests.items()
                return [
                    {
                        "verb": verb,
                        "resource": resource,
                        "count": tally.count,
                        "in": tally.bytes_in,
                        "out": tally.bytes_out,
                    }
                    for (verb, resource), tally in tallies.items()
                ]
        raise KeyError(name)

    def _do(self, name: str, arguments: dict[str, Any]) -> Any:
        if name == "image":
            image = arguments.pop("name")
            self._cluster.images[image] = Image(**arguments)
            return None
        if name == "preload":
            return self._cluster.preload(arguments["jobs"], arguments.get("namespace"))
        if name not in _FAULTS:
            raise KeyError(f"{name}; known: image, preload, {', '.join(sorted(_FAULTS))}")
        result = getattr(self._cluster.faults, name)(**arguments)
        return None if isinstance(result, Rule) else result
