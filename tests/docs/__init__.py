"""Tests of the documentation: pages, commands, examples, figures and the generated reference.

Never here: a copy of a fact. A test compares a page with the code or with a recorded run.
"""
