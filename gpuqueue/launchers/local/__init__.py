"""The local launcher: each attempt is a process of this machine.

Never here: Redis, Celery, decisions about slots.
"""
