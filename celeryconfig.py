"""The default configuration file of Celery: ``celery`` reads it in this directory if started
without ``-A``.

``celery status``, ``celery inspect ping`` and ``celery events`` in this directory therefore connect
to the dispatchers.

Applications (``Celery("shop")``, ``celery -A shop``) never read this file, in any directory, and
neither does ``celery -A gpuqueue``, which uses ``gpuqueue.dispatcher.celeryconfig``. Only the
default application of Celery does, and an application that calls
``config_from_object("celeryconfig")`` and starts here.
"""

from typing import Any, NoReturn

# The single source of every setting and its reason.
from gpuqueue.dispatcher.celeryconfig import *  # noqa: F403


def worker_consumer(*_: Any, **__: Any) -> NoReturn:
    """Refuse to run as a worker: without gpuqueue, it would take GPU jobs and discard them as
    unknown tasks.
    """
    raise SystemExit(
        "gpuqueue: a worker with this celeryconfig.py is not a dispatcher. Dispatcher: `celery -A"
        " gpuqueue worker`. Your own worker: `celery -A yourapp worker`, with a configuration file"
        " of another name or in another directory."
    )
