"""Python imports this at its start."""

import os
from pathlib import Path

if "GPUQUEUE_TOKEN" in os.environ and Path(os.environ["FAILING_START"]).exists():
    os._exit(1)
