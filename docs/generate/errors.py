"""The page of errors, from their classes."""

from __future__ import annotations

import inspect

from docs.generate.markdown import code, codes, page, table
from docs.generate.source import class_doc
from gpuqueue import errors


def make() -> str:
    """Make the page."""
    return page(
        "Errors",
        "Every error of the package is in `gpuqueue.errors` and extends `GpuQueueError`.\n"
        "A message has the form `field=value problem; fix`.\n"
        "An error that ends a job is stored in the result backend: `AsyncResult.get()` raises it.",
        table(
            ("error", "extends", "meaning"),
            [
                (
                    code(each.__name__),
                    codes(base.__name__ for base in each.__bases__),
                    class_doc(each),
                )
                for each in classes()
            ],
        ),
    )


def classes() -> list[type[errors.GpuQueueError]]:
    """Return the errors in the order of their module."""
    return [
        each
        for each in vars(errors).values()
        if inspect.isclass(each)
        and issubclass(each, errors.GpuQueueError)
        and each.__module__ == errors.__name__
    ]
