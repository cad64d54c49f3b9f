"""The environment of an executor: how it describes the attempt. Pure: no I/O, no clock.

:mod:`gpuqueue.model.record` says which fields of the record travel. The names of the variables are
part of the contract with executors of other versions.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from gpuqueue.model.record import FIELDS, Record, Use, fields_with
from gpuqueue.model.warm_pod import WARM_POD

#: Record field → variable.
VARIABLES = {
    name: "GPUQUEUE_" + ("JOB_ID" if name == "id" else name.upper())
    for name in fields_with(Use.ENVIRONMENT)
}
#: What runs the attempt: the process or Job, as its launcher names it.
INSTANCE = "GPUQUEUE_INSTANCE"
#: The claim of a finish: the executor finishes the job in place of another.
FINISHER = "GPUQUEUE_FINISHER"
#: Seconds that an executor gets to load the application. Absent: an older dispatcher set none.
LOAD_TIMEOUT = "GPUQUEUE_LOAD_TIMEOUT"
#: How a runner starts an executor: ``fork`` or ``spawn``. Absent: ``fork``.
START = "GPUQUEUE_START"
#: States that are stored before a result: ``celery``, only those of a Celery worker. Absent: all.
STATES = "GPUQUEUE_STATES"
#: On this machine, the whole output of each attempt goes to the sink.
WHOLE_LOGS = "GPUQUEUE_WHOLE_LOGS"
#: Fields of the pod, which only the cluster knows.
POD, POD_UID, NODE = "GPUQUEUE_POD", "GPUQUEUE_POD_UID", "GPUQUEUE_NODE"
#: The runtime directory of an executor that may go on with other jobs.
RUNTIME = "GPUQUEUE_RUNTIME"
#: In a pod that runs several jobs: what marks a turn in the output of a process; until when it
#: takes jobs, by the monotonic clock; and how many more.
TURN, UNTIL, JOBS = "GPUQUEUE_TURN", "GPUQUEUE_UNTIL", "GPUQUEUE_JOBS_LEFT"
#: The variables of a job and its attempt, which change if a process goes on with another one.
OF_JOB = frozenset(VARIABLES.values())
#: All variables of one attempt. A dispatcher that runs within a job must not pass on its own.
OF_ATTEMPT = OF_JOB | {INSTANCE, FINISHER, RUNTIME, POD, POD_UID, NODE, WARM_POD, TURN, UNTIL, JOBS}


def record_variables(record: Record) -> dict[str, str]:
    """Return the variables that describe an attempt, by its record."""
    known: Mapping[str, Any] = record
    return {
        variable: str(known[name])
        for name, variable in VARIABLES.items()
        if known.get(name) is not None
    }


def become(environ: MutableMapping[str, str], variables: Mapping[str, str]) -> None:
    """Turn the environment of a process to the attempt that it goes on with."""
    for name in OF_JOB:
        environ.pop(name, None)
    environ.update(variables)


def parse_record(env: Mapping[str, str]) -> Record:
    """Parse the variables that :func:`record_variables` makes. Raises KeyError if a required one is
    missing, and ValueError if a number is none.
    """
    for name in fields_with(Use.REQUIRED):
        if VARIABLES[name] not in env:
            raise KeyError(VARIABLES[name])
    record: Any = {
        name: FIELDS[name].kind(env[variable])
        for name, variable in VARIABLES.items()
        if variable in env
    }
    return record  # type: ignore[no-any-return]
