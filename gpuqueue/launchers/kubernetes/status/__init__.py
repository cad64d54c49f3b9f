"""Reads a pod's status: its phase, what it waits for, how it ended. Pure.

Never here: requests to the API, clocks, Redis. Each rule is backed by a recording of a real API
server.
"""
