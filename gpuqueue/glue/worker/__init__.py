"""The dispatcher as a Celery worker: its consumer, remote control, heartbeat and queue lengths.

Never here: the queue's state. The consumer hands each message to the dispatcher and never to a
worker pool.
"""
