"""Launchers start attempts and see them end: ``local`` as processes of this machine; ``kubernetes``
comes beside it.

Never here: Redis, Celery, decisions about slots. A launcher may be asked for the same attempt
twice; the executor's claim makes sure that one of the two runs.
"""
