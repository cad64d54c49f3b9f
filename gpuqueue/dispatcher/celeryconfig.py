"""The Celery configuration of dispatchers (and of Flower beside them), a reason per line."""

import socket

from kombu import Exchange, Queue

from gpuqueue.settings.classes import configured
from gpuqueue.settings.dispatcher import load
from gpuqueue.store.sentinel import for_celery

_settings = load()
_classes = configured(_settings)

# The broker and backend of the applications: jobs and results are plain Celery there.
_redis = _settings.redis.celery()
broker_url, result_backend = _redis["broker_url"], _redis["result_backend"]
result_backend_transport_options = for_celery(_redis["result_backend_transport_options"])
broker_use_ssl = _redis.get("broker_use_ssl")
redis_backend_use_ssl = _redis.get("redis_backend_use_ssl")

# Remote control and events are Celery's. The intake takes the messages.
worker_consumer = "gpuqueue.glue.worker.consumer:Consumer"
# Without -Q: the queues of all classes. Exchange and key have the names that Celery gives to the
# queues that it makes: with the default exchange, messages of the queue `celery` would arrive too.
_names = {
    "gpu.auto",
    "gpu.mig",
    *(queue for each in _classes.values() for queue in each.taken_queues),
}
task_queues = [Queue(name, Exchange(name), routing_key=name) for name in sorted(_names)]
# Only JSON is decoded.
accept_content = ["json"]
task_serializer = result_serializer = "json"
# The pool stays empty: messages never enter it.
worker_pool = "threads"
worker_concurrency = 1
#: It has none to cancel. Without this, Celery warns at each lost connection that it cancels none.
worker_cancel_long_running_tasks_on_connection_loss = True
# Where the applications send commands and expect events.
control_exchange = _settings.control_exchange or "celery"
event_exchange = _settings.event_exchange or "celeryev"
# Flower needs events.
worker_send_task_events = True
# A dispatcher often starts before its Redis: it logs that, and retries.
broker_connection_retry_on_startup = True
# However long it is away.
broker_connection_max_retries = None
# Seconds for each answer of the result backend: a write that fails is repeated later.
redis_socket_timeout = 5.0
redis_socket_connect_timeout = 3.0
redis_backend_health_check_interval = 30
# A Unix socket has no keepalive, and Celery would ask for it.
redis_socket_keepalive = "socket://" not in (result_backend or broker_url or "")
# A failover, a firewall or a NAT can lose a connection without a word. Commands fail after 10 s;
# Celery's loop checks idle connections of consumers; and the kernel checks those that only listen,
# as Flower's for events, after a minute instead of two hours.
_connection = {
    "socket_timeout": 10.0,
    "socket_connect_timeout": 5.0,
    "health_check_interval": 25,
    "socket_keepalive": True,
    "socket_keepalive_options": {
        getattr(socket, name): value
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    },
}
# Separate keys for unacknowledged messages: what receives replies of remote control also puts back
# messages whose visibility timeout has passed, and the timeout of the applications may be longer.
# Dispatchers before the intake left messages under these keys; newer ones put them back.
broker_transport_options = {
    **_connection,
    # What the operator has set comes after it.
    **for_celery(_redis["broker_transport_options"]),
    "unacked_key": "gpuqueue.unacked",
    "unacked_index_key": "gpuqueue.unacked_index",
    "unacked_mutex_key": "gpuqueue.unacked_mutex",
    "visibility_timeout": _settings.visibility_seconds,
    "unacked_restore_interval": min(10, _settings.visibility_seconds),
    "unacked_restore_throttle": 1,
}
# The operator chooses the log format by Celery's usual options.
worker_redirect_stdouts = False
