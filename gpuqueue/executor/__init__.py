"""The executor: it claims one attempt, loads the application, runs one message under Celery's
tracer, and exits.

Never here: any package except celery and redis, since this code runs in the images of applications.
"""
