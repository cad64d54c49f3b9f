"""What ``gpuqueue top`` does beside drawing: read again and again, and use the terminal.

Never here: changes to the queue's state, and words for people (``cli.view``).
"""
