"""Builds the Job of an attempt: names, labels, environment, image, pod template.

Never here: requests to the API, clocks. The same arguments give the same object; only
``template_file`` does I/O.
"""
