"""Launchers start attempts and report their ends: ``local`` as processes, ``kubernetes`` as Jobs.

Never here: Redis, Celery, decisions about slots. A launcher can be called twice for the same
attempt; the claim of the executor ensures that only one of the two runs.
"""
