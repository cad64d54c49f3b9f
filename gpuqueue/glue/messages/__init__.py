"""Celery task messages: read, checked, stored and rebuilt.

Never here: Redis, slots, results. No body is decoded with anything but JSON, or the verified JSON
of a signed one.
"""
