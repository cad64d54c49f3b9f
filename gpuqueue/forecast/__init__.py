"""When a waiting job starts: a twin of what the scripts decide, run on over the run times of late.

Never here: I/O, a clock, a decision that counts. The scripts in ``store/lua`` decide, and
tests/property/test_twin.py compares each start with them.

Left out: places that fail jobs, but for GPUs and nodes that are set aside; pods that wait for a
job (they change how fast it starts, not which one); attempts that fail and are tried again.
"""
