"""The objects of the cluster: their kinds, versions and history, and their creation, change and
deletion.

Never here: HTTP, users and their rights, or a controller that acts on a change.
"""
