"""The dispatcher as a Celery worker: its consumer, remote control, heartbeat and queue lengths.

Never here: the state of the queue. The consumer passes each message to the dispatcher, and never to
a worker pool.
"""
