"""Mutants: the Lua scripts with one guard removed. A test must fail for each.

``python -m tests.mutants`` (``make mutants``) derives them from the scripts, runs the fixed
schedules of the property machine and the tests of the scripts on each, and prints those that no
test caught. ``equivalent.toml`` lists those that behave as the script does, each with the reason.
"""
