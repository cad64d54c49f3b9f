"""The nodes: kubelets that run the containers of pods as processes or timers and report their
status.

Never here: HTTP, or a decision about which pod runs where.
"""
