"""Tasks that stand in for the task of a message: made for one use, and registered nowhere.

Never ``app.task(...)`` for a name that a message gives. Celery would keep that task for good, and
in place of a task of this process with the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Task


def stand_in(
    app: Celery, name: str, run: Callable[..., Any], *, ignore_result: bool = False
) -> Task:
    """Return a task that is bound to the application, and unknown to its registry. It checks no
    arguments.
    """
    options = {
        "name": name,
        "run": staticmethod(run),
        "ignore_result": ignore_result,
        "typing": False,
        "__module__": __name__,
    }
    made: Task = type("StandIn", (Task,), options)()
    made.bind(app)
    return made
