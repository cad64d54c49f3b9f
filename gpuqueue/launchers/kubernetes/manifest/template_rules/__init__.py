"""Rules for the pod template of the operator, checked when its file is read. Pure.

A template can add what a pod needs in addition to the executor.
Never here: what makes a pod an attempt (its container, name and labels, that it runs once), what
other settings configure, more of a GPU, and what Pod Security "restricted" forbids. No service
account token is mounted by default; a projected volume can mount one with an audience and lifetime.
"""
