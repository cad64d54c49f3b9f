"""Applications that show gpuqueue at work; each is plain Celery."""
