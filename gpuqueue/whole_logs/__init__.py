"""The sinks of whole logs: a directory, or an S3-compatible bucket.

Never here: retries, deletions of logs (their retention is the sink's), and the state in Redis.
"""
