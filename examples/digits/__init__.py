"""Training on scikit-learn's handwritten digits, as Celery tasks."""
