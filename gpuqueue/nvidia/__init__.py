"""The NVIDIA GPUs of this machine: devices, samples of their memory, signs of failures.

Never here: Redis, Celery, decisions about jobs. A machine without a GPU or a driver is a normal
case.
"""
