"""Faults between processes: of messages, the network, and the API server of Kubernetes."""

from __future__ import annotations

from tests.chaos.faults.base import Fault
from tests.support.launching import KUBERNETES


class MessagesRepeated(Fault):
    name = "messages sent twice"
    on = "messages"

    def begin(self) -> None:
        """The player sends what ``repeats`` answers."""

    def repeats(self, envelopes: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return envelopes + self.random.sample(envelopes, len(envelopes) // 2)


class ConnectionsCut(Fault):
    name = "connections to Redis cut"
    on = "network"

    def begin(self) -> None:
        self.stage.proxy.refuses = True
        self.stage.proxy.cut()

    def end(self) -> None:
        self.stage.proxy.refuses = False


class ConnectionsFrozen(Fault):
    """Packets are dropped, connections stay."""

    name = "connections to Redis frozen"
    on = "network"

    def begin(self) -> None:
        self.stage.proxy.freeze(True)

    def end(self) -> None:
        self.stage.proxy.freeze(False)


class AnswersLost(Fault):
    """Redis does what it is asked, and its answers are lost with the connections."""

    name = "answers of Redis lost"
    on = "network"

    def begin(self) -> None:
        self.stage.proxy.hold_answers(True)

    def end(self) -> None:
        self.stage.proxy.refuses = True
        self.stage.proxy.cut()
        self.stage.proxy.hold_answers(False)
        self.stage.proxy.refuses = False


class ApiDown(Fault):
    name = "API server away"
    on = "API"
    launchers = (KUBERNETES,)

    def begin(self) -> None:
        self.stage.cluster.faults.front_down()

    def end(self) -> None:
        self.stage.cluster.faults.front_up()


class WatchesCut(Fault):
    name = "watches of the API server cut"
    on = "API"
    launchers = (KUBERNETES,)

    def begin(self) -> None:
        self.stage.cluster.faults.drop_watches(cut=True)
        self.stage.cluster.faults.compact()


class RequestsFail(Fault):
    name = "API server answers 500"
    on = "API"
    launchers = (KUBERNETES,)

    def begin(self) -> None:
        self.stage.cluster.faults.fail(500, times=self.random.randint(1, 8))

    def end(self) -> None:
        self.stage.cluster.faults.clear()


class PodEvicted(Fault):
    name = "pod evicted"
    on = "pods"
    launchers = (KUBERNETES,)
    moves_jobs = True

    def begin(self) -> None:
        pods = [
            each["metadata"]["name"]
            for each in self.stage.cluster.pods()
            if each.get("status", {}).get("phase") == "Running"
        ]
        if pods:
            self.stage.cluster.faults.evict(self.random.choice(pods))
