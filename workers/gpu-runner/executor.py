"""An executor, by the path that job manifests name: the same as ``python -m gpuqueue.executor``."""

import sys

from gpuqueue.errors import SettingsError
from gpuqueue.executor import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except SettingsError as exc:
        sys.exit(f"gpuqueue: {exc}")
