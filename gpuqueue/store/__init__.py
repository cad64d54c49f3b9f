"""The queue's state in Redis. Only this package reads and changes it.

Never here: decisions outside the scripts, Celery, settings. Each verb is one Lua script and may be
repeated. ``attempts`` has the verbs of executors, ``line`` those of dispatchers, ``upkeep`` those
of the watcher's cycle. ``reader`` and ``measures`` only read. ``lease``, ``wakeups`` and
``revocations`` are about dispatchers, not about a class. ``layout`` checks that this version can
read the state.
"""
