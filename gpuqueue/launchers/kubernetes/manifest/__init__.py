"""Builds the Job of an attempt: names, labels, environment, image, pod template. Pure, except
``template_file``.

Never here: requests to the API, clocks. The same arguments give the same object.
"""
