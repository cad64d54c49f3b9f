"""A directory for the temporary files of one job: the next job of its pod must not find them.

Never here: a directory that others may use, too. What a job writes elsewhere stays.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

#: Where ``tempfile``, and most programs, make their files.
VARIABLE = "TMPDIR"
logger = logging.getLogger("gpuqueue.start")


@contextmanager
def temporary_files() -> Iterator[None]:
    """Have processes that start meanwhile make their temporary files in a separate directory, and
    remove it. Where none can be made, they use that of the pod.
    """
    before, chosen = os.environ.get(VARIABLE), tempfile.tempdir
    try:
        folder = tempfile.mkdtemp(prefix="gpuqueue-job-")
    except OSError as exc:
        logger.info("temporary files stay until the pod ends: %s", exc)
        yield
        return
    os.environ[VARIABLE] = tempfile.tempdir = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
        tempfile.tempdir = chosen
        shutil.rmtree(folder, ignore_errors=True)
