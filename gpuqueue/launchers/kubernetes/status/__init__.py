"""Reads the status of a pod: its phase, what it waits for, how it ended. Pure.

Never here: requests to the API, clocks, Redis. A recording of a real API server backs each rule.
"""
