"""Everything that uses internals of Celery: messages, the consumer for any task name, results
written without a worker, remote control, events.

Never here: slots, order, launching. No other package uses undocumented parts of Celery; each of
them has a test in tests/contract/test_celery.py.
"""
