"""The GPUs of this machine: what NVML shows, how a job's memory is sampled, and what a GPU failure
looks like.

Never here: Redis, Celery, decisions about jobs. A machine without a GPU or a driver is a normal
case.
"""
