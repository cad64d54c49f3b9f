"""A plain Celery application for trying a cluster: it counts, waits, fails, and takes memory until
it is stopped.
"""

import os
import sys
import time

from celery import Celery

app = Celery("cluster")  # broker and backend: CELERY_BROKER_URL and CELERY_RESULT_BACKEND


@app.task
def add(x, y):
    return x + y


@app.task
def hold(seconds):
    """Answer on which pod it ran, and from when to when, in Unix seconds."""
    begun = time.time()
    print("holding", flush=True)
    time.sleep(seconds)
    return {"pod": os.environ.get("GPUQUEUE_POD"), "begun": begun, "ended": time.time()}


@app.task(bind=True, max_retries=2)
def third_time_lucky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task
def crash(code):
    print("about to crash", file=sys.stderr, flush=True)
    os._exit(code)


@app.task
def eat_memory(most=4096):
    """Take memory, 160 MB a second, until somebody stops it; a machine that lets it have all that
    MiB is spared.
    """
    eaten = []
    print("eating", flush=True)
    while len(eaten) * 8 < most:
        eaten.append(bytearray(8 << 20))
        time.sleep(0.05)
    return f"had {most} MiB, and nobody minded"


@app.task
def note(*_, key):
    """An errback: leave a word where the caller looks."""
    app.backend.client.rpush(key, "called")
    app.backend.client.expire(key, 600)
