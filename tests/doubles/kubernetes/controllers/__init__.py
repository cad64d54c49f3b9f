"""The control plane beside the API server: Job controller, node controller, garbage collector and
scheduler.

Never here: HTTP, containers or processes.
"""
