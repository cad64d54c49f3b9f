"""The queue's state in Redis: the only place that talks to it for gpuqueue.

Never here: decisions outside the scripts, Celery, settings. Every verb is one Lua script, and may
be repeated. ``attempts`` is what an executor needs; ``line`` what dispatchers need; ``read`` what
people and watchers look at; ``lease`` who leads and how it is woken; ``layout`` whether the state
is ours to work on at all.
"""
