"""The local launcher: runs each attempt as a process of this machine.

Never here: Redis, Celery, decisions about slots, Kubernetes. Processes outlive their dispatcher,
and the next one finds them by their environment.
"""
