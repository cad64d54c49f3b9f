"""The runner: the parent of executors. It imports the application once and forks an executor for
each attempt.

A machine has one in local mode: one that dies takes no executor with it, and nothing is concluded
from its absence. In a pod, process 1 is one: see ``pod``.

Never here: decisions about slots, a GPU, a second thread; Redis, but for the claim of a pod.
"""
