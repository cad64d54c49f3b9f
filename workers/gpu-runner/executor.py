"""An executor, for manifests that run a file: the same as ``python -m gpuqueue.executor``."""

from gpuqueue.runner.pod import run

if __name__ == "__main__":
    run()
