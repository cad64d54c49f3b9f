"""Where a job's log is read from, and how the parts of one log are joined.

Never here: changes to the queue's state.
"""
