"""The seams with Celery: messages, the consumer that takes any task name, completion out of band,
remote control, events.

Never here: slots, order, launching. What Celery leaves undocumented is used in this package alone,
each with a contract test in tests/contract/test_celery.py.
"""
