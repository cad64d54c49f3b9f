"""Settings of dispatchers and the command line, read from the environment.

Never here: requests to Redis, Celery, the Kubernetes API. A wrong value raises a SettingsError with
variable, value and fix.
"""
