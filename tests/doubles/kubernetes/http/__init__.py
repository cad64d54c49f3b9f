"""HTTP/1.1 on sockets of 127.0.0.1, with connections that can be cut or left silent.

Never here: anything of Kubernetes. A handler answers requests, and knows what they mean.
"""
