"""The words of the queue: jobs, attempts, states, reasons, names.

Never here: I/O, clocks, third-party packages. Everything is a value or a pure function of values.
"""
