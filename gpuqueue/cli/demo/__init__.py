"""The demo: its jobs, its live view, and the promises it checks from evidence."""
