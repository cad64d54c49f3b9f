"""Follows the pods of all attempts: lists and watches them, runs their clocks, stores their logs.

Never here: slots and results. A broken watch or a failed request never counts as the end of an
attempt.
"""
