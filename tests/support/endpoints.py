"""What a dispatcher says over HTTP, as Prometheus and the kubelet read it."""

from __future__ import annotations

import random
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

#: Seconds for an answer: what the kubelet is told in charts/ and deploy/.
PATIENCE = 10.0


def free_port() -> int:
    """A port that is free, and stays so: connections that others open meanwhile are given higher
    ones.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port


@dataclass(frozen=True)
class Endpoint:
    """The endpoint of one dispatcher."""

    port: int

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text of a path."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def ready(self) -> bool:
        """Whether it answers that it is ready; False without an answer."""
        try:
            return self.ask("/readyz")[0] == 200
        except OSError:
            return False

    def metrics(self) -> Metrics:
        status, text = self.ask("/metrics")
        assert status == 200, text
        return Metrics(text)


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, sample: str, **labels: str) -> float | None:
        """The value of one sample; None: there is none."""
        return self.samples.get((sample, frozenset(labels.items())))

    def of(self, sample: str) -> dict[tuple[str, ...], float]:
        """All samples of a name: their labels' values in the order of the labels' names."""
        found = {name: value for name, value in self.samples.items() if name[0] == sample}
        return {
            tuple(value for _, value in sorted(labels)): number
            for (_, labels), number in found.items()
        }
