"""``python -m gpuqueue.executor``: run the attempt that the environment names. In a pod, this is
its runner.
"""

from gpuqueue.runner.pod import run

run()
