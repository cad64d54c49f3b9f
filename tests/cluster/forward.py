"""A port of a pod as a port of this machine, through the API server: the client's port-forward, a
stream for each connection.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

from kubernetes import client
from kubernetes.stream import portforward

#: Bytes that are handed on at once.
CHUNK = 1 << 16


class Forward:
    """Listens on a free port of this machine until it is closed. A connection that cannot be
    forwarded is closed.
    """

    def __init__(self, pod: str, namespace: str, port: int, configuration: Any = None) -> None:
        # Its own client: while that opens a stream, it can do nothing else.
        self._core = client.CoreV1Api(client.ApiClient(configuration))
        self._pod, self._namespace, self._remote = pod, namespace, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that are open last until one side ends them."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                stream = portforward(
                    self._core.connect_get_namespaced_pod_portforward,
                    self._pod,
                    self._namespace,
                    ports=str(self._remote),
                )
            except client.ApiException:
                near.close()
                continue
            far = stream.socket(self._remote)
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: Any, target: Any) -> None:
    """Hand on what comes until one side ends, and end the other."""
    with suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
