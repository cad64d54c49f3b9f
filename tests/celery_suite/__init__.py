"""Celery's own integration suites, run through GPU queues beside the same on a plain worker.

``make test-celery CELERY_REPO=FOLDER`` reads the suites from a checkout of Celery; nothing of them
is kept here. No test of Celery is changed: the plugin routes what a test sends, as an application
would, and the result of each test is compared with that of the plain side.
"""
