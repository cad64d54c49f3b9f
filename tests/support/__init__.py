"""What tests share: the stack, its nodes, gates, certificates, doubles of GPUs, and `until`.

Never here: a test, an assertion about the product, an edit of ``sys.path``. Applications under test
lie in ``apps``: ``pythonpath`` in pyproject.toml finds them for tests, PYTHONPATH for child
processes.
"""
