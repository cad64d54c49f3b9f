"""torch, as far as a job that runs out of its GPU's memory sees of it: found by PYTHONPATH, on no
machine with the real one.
"""

from torch import cuda

__all__ = ["OutOfMemoryError", "cuda"]


class OutOfMemoryError(RuntimeError):
    """As torch's."""
