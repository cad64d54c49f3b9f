"""Metrics of the queue, read from Redis at each scrape: all dispatchers of a class return the same
values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.glue.worker.queue_lengths import BrokerUnavailable
from gpuqueue.model.names import ISOLATIONS, REFUSED
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.tenant import shown_name
from gpuqueue.store.client import RedisError
from gpuqueue.store.counts import Durations
from gpuqueue.store.measures import Measured, Measures

logger = logging.getLogger(__name__)
_PLACE = ("gpu_class", "isolation")


class QueueCollector(Collector):
    """Collects the state of the classes, and the messages that no dispatcher has taken.

    Args:
        measures: reads the state; its client needs a short timeout, because Prometheus has one.
        classes: the classes of this dispatcher.
        lengths: returns queue → messages in the broker. May raise :class:`BrokerUnavailable`.
        letters: returns the number of dead letters. May raise the same.
    """

    def __init__(
        self,
        measures: Measures,
        classes: Mapping[str, GpuClass],
        lengths: Callable[[], Mapping[str, int]],
        letters: Callable[[], int],
    ) -> None:
        self._measures = measures
        self._classes = classes
        self._lengths = lengths
        self._letters = letters

    def describe(self) -> Iterable[Metric]:
        """Describe nothing: the registry would read Redis for it."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. Unavailable ones are absent, which is logged."""
        try:
            measured = {name: self._measures.of(name) for name in (*self._classes, REFUSED)}
            slots = {name: self._measures.slots(each) for name, each in self._classes.items()}
        except RedisError as exc:
            logger.warning(
                "the queue's state cannot be measured: %s", exc, extra={"action": "scrape_failed"}
            )
            measured, slots = {}, {}
        yield GaugeMetricFamily(
            "gpuqueue_state_up",
            "Whether Redis returned the state of the queue. At 0, its other metrics are absent.",
            value=bool(measured),
        )
        if not measured:
            # Most likely the broker is the same Redis, and Prometheus has a short timeout.
            return
        yield from _counts(measured)
        del measured[REFUSED]
        yield from self._state(measured, slots)
        yield from _tenants(measured)
        try:
            lengths, letters = self._lengths(), self._letters()
        except BrokerUnavailable as exc:
            logger.warning(
                "the broker's queues cannot be measured: %s", exc, extra={"action": "scrape_failed"}
            )
            return
        untaken = GaugeMetricFamily(
            "gpuqueue_untaken_messages",
            "Messages in the broker that no dispatcher has taken yet.",
            labels=("queue",),
        )
        for queue, length in lengths.items():
            untaken.add_metric((queue,), length)
        yield untaken
        yield GaugeMetricFamily(
            "gpuqueue_dead_letters",
            "Messages of the broker that were set aside, since no dispatcher could accept them.",
            value=letters,
        )

    def _state(
        self, measured: Mapping[str, Measured], slots_of: Mapping[str, Mapping[str, int]]
    ) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            "gpuqueue_waiting_jobs", "Jobs in line for a slot.", labels=_PLACE
        )
        longest = GaugeMetricFamily(
            "gpuqueue_oldest_wait_seconds",
            "Age in seconds of the oldest waiting job; 0 if no job waits.",
            labels=_PLACE,
        )
        running = GaugeMetricFamily(
            "gpuqueue_running_jobs",
            "Jobs that hold a slot: starting, running, ending.",
            labels=_PLACE,
        )
        slots = GaugeMetricFamily(
            "gpuqueue_slots",
            "Slots in the configuration of this dispatcher, of all domains that it knows.",
            labels=_PLACE,
        )
        in_use = GaugeMetricFamily(
            "gpuqueue_slots_in_use",
            "Slots that jobs hold; a job of several GPUs has one for each.",
            labels=_PLACE,
        )
        needed = GaugeMetricFamily(
            "gpuqueue_slots_needed",
            "Slots of one domain that the first job in line needs; 0 if no job waits.",
            labels=_PLACE,
        )
        delayed = GaugeMetricFamily(
            "gpuqueue_delayed_jobs",
            "Jobs before their eta, or in the pause before a new attempt.",
            labels=("gpu_class",),
        )
        finishing = GaugeMetricFamily(
            "gpuqueue_finishing_jobs",
            "Jobs whose result another process than their executor writes.",
            labels=("gpu_class",),
        )
        idle = GaugeMetricFamily(
            "gpuqueue_idle_pods",
            "Warm pods that wait for a job: each holds a GPU, or its share of one, and no slot.",
            labels=("gpu_class",),
        )
        aside = GaugeMetricFamily(
            "gpuqueue_places_set_aside",
            "GPUs, hosts, applications and nodes that failed several jobs, and holds of a class or"
            " an image; only one job at a time tries one again.",
            labels=("gpu_class", "kind"),
        )
        for name, each in measured.items():
            for kind in PlaceKind:
                aside.add_metric((name, kind), each.set_aside.get(kind, 0))
            for isolation in ISOLATIONS:
                waiting.add_metric((name, isolation), each.waiting[isolation])
                longest.add_metric((name, isolation), each.longest_wait[isolation])
                running.add_metric((name, isolation), each.holders[isolation])
                slots.add_metric((name, isolation), slots_of[name][isolation])
                in_use.add_metric((name, isolation), each.slots_in_use(isolation))
                needed.add_metric((name, isolation), each.needed.get(isolation, 0))
            delayed.add_metric((name,), each.delayed)
            finishing.add_metric((name,), each.finishing)
            idle.add_metric((name,), each.idle_pods)
        yield from (waiting, longest, running, slots, in_use, needed)
        yield from (delayed, finishing, idle, aside)


def _tenants(measured: Mapping[str, Measured]) -> Iterator[Metric]:
    """Yield what tenants have. Senders choose their names, so the number of series has a bound."""
    labels = ("gpu_class", "tenant")
    known = GaugeMetricFamily(
        "gpuqueue_tenants", "Tenants that the class knows.", labels=("gpu_class",)
    )
    waiting = GaugeMetricFamily(
        "gpuqueue_tenant_waiting_jobs",
        "Jobs of a tenant in line for a slot. Up to 64 tenants of a class, those with jobs first;"
        " `-`: jobs without a tenant.",
        labels=labels,
    )
    running = GaugeMetricFamily(
        "gpuqueue_tenant_running_jobs", "Jobs of a tenant that hold a slot.", labels=labels
    )
    limited = GaugeMetricFamily(
        "gpuqueue_tenant_at_limit",
        "Whether the tenant runs as many jobs as it may (TENANT_LIMIT): 1, else 0.",
        labels=labels,
    )
    used = CounterMetricFamily(
        "gpuqueue_tenant_gpu_seconds",
        "GPU-seconds that a tenant has held; a shared slot is a part of a GPU.",
        labels=labels,
    )
    for name, each in measured.items():
        known.add_metric((name,), each.all_tenants)
        for tenant in each.tenants:
            own = (name, shown_name(tenant.name))
            waiting.add_metric(own, sum(tenant.waiting.values()))
            running.add_metric(own, sum(tenant.running.values()))
            limited.add_metric(own, tenant.limited)
            used.add_metric(own, tenant.gpu_seconds)
    yield from (known, waiting, running, limited, used)


def _counts(measured: Mapping[str, Measured]) -> Iterator[Metric]:
    accepted = CounterMetricFamily(
        "gpuqueue_jobs_accepted", "Jobs that entered the queue.", labels=_PLACE
    )
    ended = CounterMetricFamily(
        "gpuqueue_jobs_ended", "Jobs that ended, by reason.", labels=(*_PLACE, "reason")
    )
    repeated = CounterMetricFamily(
        "gpuqueue_attempts_repeated",
        "Failed attempts that a new attempt follows, by reason.",
        labels=(*_PLACE, "reason"),
    )
    given_up = CounterMetricFamily(
        "gpuqueue_finishes_given_up",
        "Jobs whose application could not finish them, or whose callbacks could not be sent, in"
        " GPUQUEUE_FINISH_TRIES tries, by reason.",
        labels=(*_PLACE, "reason"),
    )
    warm = CounterMetricFamily(
        "gpuqueue_warm_starts",
        "Attempts given to a pod, or to a process with `reuse`, that had run another one.",
        labels=_PLACE,
    )
    wait = HistogramMetricFamily(
        "gpuqueue_wait_seconds",
        "Seconds from entering the line to a slot, without eta and the pause before a new attempt.",
        labels=_PLACE,
    )
    held = HistogramMetricFamily(
        "gpuqueue_slot_held_seconds",
        "Seconds that an attempt held its slot: start, run and end.",
        labels=_PLACE,
    )
    used = CounterMetricFamily(
        "gpuqueue_gpu_seconds",
        "Seconds that ended attempts held the GPUs of their class, each by the share of its slot"
        " (one of 8 slots: an eighth), by tenant and reason. Beyond 200 series of a class, tenants"
        " count as `other`.",
        labels=(*_PLACE, "tenant", "outcome"),
    )
    for name, each in measured.items():
        for (tenant, isolation, reason), seconds in each.used.items():
            used.add_metric((name, isolation, tenant, reason), seconds)
        for isolation, number in each.counts.accepted.items():
            accepted.add_metric((name, isolation), number)
        for isolation, number in each.counts.warm.items():
            warm.add_metric((name, isolation), number)
        for family, counted in (
            (ended, each.counts.ended),
            (repeated, each.counts.repeated),
            (given_up, each.counts.given_up),
        ):
            for (isolation, reason), number in counted.items():
                family.add_metric((name, isolation, reason), number)
        _histogram(wait, name, each.counts.wait)
        _histogram(held, name, each.counts.held)
    yield from (accepted, ended, repeated, given_up, warm, wait, held, used)


def _histogram(
    family: HistogramMetricFamily, name: str, durations: Mapping[str, Durations]
) -> None:
    for isolation, each in durations.items():
        family.add_metric((name, isolation), list(each.buckets), each.total)
