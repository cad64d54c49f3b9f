"""An allocator that only counts."""

_taken = []


def take(size):
    """Take memory, as a tensor would."""
    _taken.append(size)


def is_initialized():
    return bool(_taken)


def device_count():
    return 1


def max_memory_allocated(index):
    return sum(_taken)
