"""The dispatcher process, in the order of a job's life: accept, slots, watch, stop, repair, cancel,
finish. ``assemble`` puts it together.

Never here: the application's code, Lua, HTTP requests to the Kubernetes API. Every step may be
repeated.
"""
