"""The clock of the cluster: one thread that makes each call when it is due, and the delays of real
clusters.

Never here: an object of the API, or what a controller or a kubelet decides.
"""
