"""The checks and defaults that an object passes before the cluster stores it.

Never here: a write to the store, except the usage in a quota's status.
"""
