"""The Kubernetes API: requests, watches, errors, and the fields of objects that gpuqueue reads.

Never here: what an object means for a job. ``client`` is the only importer of the ``kubernetes``
package.
"""
