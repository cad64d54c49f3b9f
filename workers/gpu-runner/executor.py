"""An executor, by the path that job manifests name: the same as ``python -m gpuqueue.executor``."""

from gpuqueue.executor.main import run

if __name__ == "__main__":
    run()
