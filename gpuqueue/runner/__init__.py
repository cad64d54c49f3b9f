"""The runner: the parent of executors. It imports the application once and forks an executor for
each attempt.

Never here: Redis, decisions about slots, a GPU, a second thread. A runner that dies takes no
executor with it, and nothing is concluded from its absence.
"""
