"""Python imports this at its start."""

import os
import sys
from pathlib import Path

starts = "GPUQUEUE_TOKEN" in os.environ or "gpuqueue.runner" in sys.orig_argv
if starts and Path(os.environ["FAILING_START"]).exists():
    os._exit(1)
