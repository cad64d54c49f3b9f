"""A dispatcher for the T4 queues: arguments are passed to the Celery worker, where a later ``-Q``
replaces these queues.
"""

import sys

from celery.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = [
        "-A",
        "gpuqueue",
        "worker",
        "-P",
        "threads",
        "-Q",
        "gpu.t4.shared,gpu.t4.exclusive",
    ]
    main()
