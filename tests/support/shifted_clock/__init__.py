"""On PYTHONPATH, a directory that shifts clocks: see sitecustomize.py."""
