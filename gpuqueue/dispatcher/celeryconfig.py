"""Celery's configuration of dispatchers (and of Flower beside them), a reason per line."""

from kombu import Exchange, Queue

from gpuqueue.settings.classes import configured
from gpuqueue.settings.dispatcher import load

_settings = load()
_classes = configured(_settings)

# The applications' own broker and backend: jobs and results are plain Celery there.
broker_url = _settings.broker_url
result_backend = _settings.result_backend or _settings.broker_url

# The consumer that takes a message of any task name.
worker_consumer = "gpuqueue.glue.worker.consumer:Consumer"
# Without -Q: the queues of all classes. Exchange and key are named as Celery names those of a queue
# it makes itself: with the default exchange every message of the queue `celery` would come here
# too.
_names = {
    "gpu.auto",
    "gpu.mig",
    *(queue for each in _classes.values() for queue in [*each.queues, f"gpu.{each.name}"]),
}
task_queues = [Queue(name, Exchange(name), routing_key=name) for name in sorted(_names)]
# Nothing but JSON is ever decoded.
accept_content = ["json"]
task_serializer = result_serializer = "json"
# Acknowledged when kept in Redis, not before.
task_acks_late = True
# A message is held for milliseconds: more in hand would only be redelivered later after a crash.
worker_prefetch_multiplier = 4
# The pool runs nothing: messages never enter it.
worker_pool = "threads"
worker_concurrency = 1
# Flower shows jobs from events.
worker_send_task_events = True
# A dispatcher often starts before its Redis does; it says so and tries again.
broker_connection_retry_on_startup = True
# Own keys for unacknowledged messages: a short visibility timeout must not touch the applications'
# workers, which share the broker. What a SIGKILLed dispatcher had in hand is delivered again after
# that time and the look for it.
broker_transport_options = {
    "unacked_key": "gpuqueue.unacked",
    "unacked_index_key": "gpuqueue.unacked_index",
    "unacked_mutex_key": "gpuqueue.unacked_mutex",
    "visibility_timeout": _settings.visibility_seconds,
    "unacked_restore_interval": min(10, _settings.visibility_seconds),
    "unacked_restore_throttle": 1,
}
# The dispatcher's own log format is the operator's to choose by Celery's ordinary options.
worker_redirect_stdouts = False
