"""What an operator's pod template may say, checked when it is read. Pure: the file is read by the
launcher's template_file.py.

A template may add what a pod needs beside the executor. It may not say what makes an attempt one
(its container, its name and labels, that it runs once), what other settings say, what would hand
out more of a GPU, or what Pod Security "restricted" forbids. A service account's token is never
mounted by itself; one with an audience and a lifetime of its own can be, by a projected volume.
"""
