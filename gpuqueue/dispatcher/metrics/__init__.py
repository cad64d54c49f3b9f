"""``/metrics``, ``/healthz`` and ``/readyz`` of a dispatcher.

``queue`` reads the state of the queue at each scrape, ``dispatcher`` measures this process, and
``serve`` is the HTTP server.

Never here: changes of the state.
"""
