"""The dispatcher process, in the order of a job's way: accept, slots, watch, repair, cancel,
finish.

Never here: the application's code, Lua, HTTP requests to the Kubernetes API. Every step may be
repeated.
"""
