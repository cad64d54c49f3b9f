"""``python -m gpuqueue.runner``: be the parent of executors."""

from gpuqueue.runner.main import run

run()
