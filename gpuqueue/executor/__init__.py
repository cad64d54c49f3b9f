"""The executor: claims one attempt, loads the application, runs one message under Celery's tracer,
exits.

Never here: any package beyond celery and redis, since this code runs inside application images.
"""
