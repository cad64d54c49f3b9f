"""``python -m gpuqueue.executor``: run the attempt that the environment names."""

from gpuqueue.executor.main import run

run()
