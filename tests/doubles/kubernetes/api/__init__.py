"""The API server: it turns HTTP requests into reads and writes of objects, and answers them.

Never here: sockets, or what the cluster does with an object after the answer.
"""
