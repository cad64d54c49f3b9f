"""Settings of the dispatchers of all schedules."""

from __future__ import annotations

from tests.support.crash_stack import CLOCKS

SHARED_SLOTS = 4
#: Clocks of the crash tests; the watch of the double is silent for less.
SETTINGS = CLOCKS | {
    "T4_SHARED_SLOTS": str(SHARED_SLOTS),
    "GPUQUEUE_METRICS_PORT": "0",
    "GPUQUEUE_HOST_SILENT_SECONDS": "5",
    "GPU_IMAGE_ALLOW": "*",
    "GPU_API_TIMEOUT": "2",
    "GPU_LAUNCH_TIMEOUT": "20",
    "GPU_TERMINATING_TIMEOUT": "2",
}
