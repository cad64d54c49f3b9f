"""The local launcher: runs each attempt as a process of this machine, which a runner starts.

Never here: Redis, Celery, decisions about slots, Kubernetes. Processes outlive their dispatcher and
their runner. What runs is known by start times, and never by what a process says of itself.
"""
