"""Mutants: the Lua scripts with one guard removed. A test must fail for each.

``python -m tests.mutants`` (``make mutants``) derives them from the scripts, and sees once which
lines each fast test of the scripts reaches, and the fixed schedules of the property machine. A
mutant gets those that reach its line: first those that caught most of its script, then the
quickest. Printed are those that no test caught. ``equivalent.toml`` lists those that behave as the
script does, each with the reason. A result names those that live, and those that are left to try;
``--again`` goes on with both.
"""
