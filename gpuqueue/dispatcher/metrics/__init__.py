"""``/metrics``, ``/healthz`` and ``/readyz`` of a dispatcher.

``queue`` reads the state of the queue at a scrape, ``dispatcher`` tells of this process, ``serve``
answers over HTTP.
"""
