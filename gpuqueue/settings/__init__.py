"""Settings from the environment, for dispatchers and the command line.

Never here: Redis, Celery, the Kubernetes API. A wrong value raises an error that names the
variable, the value and the fix.
"""
