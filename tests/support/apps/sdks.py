"""An application with the SDKs that many have: errors and spans go to lists in Redis."""

import json
import os
from collections.abc import Sequence
from typing import Any

import redis
import sentry_sdk
from celery import Celery, signals
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

URL = os.environ["CELERY_BROKER_URL"]
app = Celery("sdks", broker=URL, backend=URL)


def tell(key: str, said: dict[str, Any]) -> None:
    with redis.Redis.from_url(URL) as client:
        client.rpush(key, json.dumps(said, default=str))


class ToRedis(Transport):
    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            if (event := item.get_event() or item.get_transaction_event()) is not None:
                tell("errors", dict(event))


class SpansToRedis(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            tell("spans", {"name": span.name, "attributes": dict(span.attributes or {})})
        return SpanExportResult.SUCCESS


sentry_sdk.init(
    dsn="https://key@errors.invalid/1",
    transport=ToRedis,
    integrations=[CeleryIntegration()],
    traces_sample_rate=1.0,
)


@signals.worker_process_init.connect(weak=False)
def trace(**_: object) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(SpansToRedis()))
    CeleryInstrumentor().instrument(tracer_provider=provider)


@app.task
def divide(one: int, other: int) -> float:
    return one / other
