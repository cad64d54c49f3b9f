"""The checks of ``gpuqueue doctor``. Each answers OK, WARN or FAIL, what it found, and the fix.

Never here: changes to the queue's state or to the cluster.
"""
