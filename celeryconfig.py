"""Celery's default configuration file: what ``celery`` reads here when it is started without
``-A``.

So ``celery status``, ``celery inspect ping`` and ``celery events`` in this folder speak with the
dispatchers.

Who is not surprised by it: an application of its own (``Celery("shop")``, ``celery -A shop``) never
reads this file, whatever its folder, and neither does ``celery -A gpuqueue``, which takes
``gpuqueue.dispatcher.celeryconfig`` itself. Only Celery's default application does, and one that
asks for ``config_from_object("celeryconfig")`` and is started here.
"""

from typing import Any, NoReturn

# One source: every setting, with its reason, stands there.
from gpuqueue.dispatcher.celeryconfig import *  # noqa: F403


def worker_consumer(*_: Any, **__: Any) -> NoReturn:
    """Refuse to be a worker: without gpuqueue's parts it would take GPU jobs and throw them away as
    unknown tasks.
    """
    raise SystemExit(
        "gpuqueue: a worker with this celeryconfig.py is no dispatcher. Dispatcher: `celery -A"
        " gpuqueue worker`. Your own worker: `celery -A yourapp worker`, with a configuration file"
        " of another name or in its own folder."
    )
