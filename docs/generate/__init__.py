"""Writes the reference pages, ``docs/reference``, from the code: ``python -m docs.generate``.

Each module makes one or two pages from the declarations and docstrings of the package. The pages
are committed, and a test compares them with what this package makes. ``site`` is a hook of MkDocs.

Never here: facts that the code does not state. What needs an explanation has a page under
``docs/explanation``.
"""
