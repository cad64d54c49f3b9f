"""A plain Celery application. CELERY_BROKER_URL and CELERY_RESULT_BACKEND set its broker and result
backend.

This module does not depend on gpuqueue: the submitting code decides where a task runs (see
submit.py).
"""

from __future__ import annotations

import time
from typing import Any

from celery import Celery
from sklearn.model_selection import StratifiedKFold

from examples.digits.models import SEED, digits, network, split

app = Celery("digits")
app.conf.update(task_track_started=True, broker_connection_retry_on_startup=True)
#: Seconds between two reports of progress: each is a write to the result backend.
REPORT_EVERY = 0.25


@app.task(bind=True)
def train(self: Any, hidden: int, rate: float, epochs: int = 150) -> dict[str, Any]:
    """Train one network and measure it on unseen images."""
    started = reported = time.monotonic()
    images, unseen, labels, truth = split(*digits())
    model = network(hidden, rate)
    for epoch in range(1, epochs + 1):
        model.epoch(images, labels)
        if time.monotonic() - reported >= REPORT_EVERY:
            reported = time.monotonic()
            self.update_state(
                state="PROGRESS",
                meta={"done": epoch, "of": epochs, "accuracy": model.accuracy(unseen, truth)},
            )
    return {
        "hidden": hidden,
        "rate": rate,
        "epochs": epochs,
        "accuracy": model.accuracy(unseen, truth),
        "device": model.device,
        "seconds": round(time.monotonic() - started, 3),
    }


@app.task(bind=True)
def cross_validate(
    self: Any, hidden: int, rate: float, epochs: int = 60, folds: int = 4
) -> dict[str, Any]:
    """Train a network on each fold of the images, to measure the spread of its accuracy."""
    images, labels = digits()
    found: list[float] = []
    for inside, outside in StratifiedKFold(folds, shuffle=True, random_state=SEED).split(
        images, labels
    ):
        model = network(hidden, rate)
        for _ in range(epochs):
            model.epoch(images[inside], labels[inside])
        found.append(model.accuracy(images[outside], labels[outside]))
        self.update_state(
            state="PROGRESS", meta={"done": len(found), "of": folds, "accuracy": found[-1]}
        )
    return {
        "hidden": hidden,
        "rate": rate,
        "accuracy": sum(found) / folds,
        "worst": min(found),
        "device": model.device,
    }


@app.task
def read_cropped(hidden: int = 16, rate: float = 0.01) -> float:
    """Read images of 7×7 with a network for 8×8: an error that appears only when the job runs."""
    images, unseen, labels, truth = split(*digits())
    model = network(hidden, rate)
    model.epoch(images, labels)
    cropped = unseen.reshape(-1, 8, 8)[:, :7, :7].reshape(-1, 49)
    return model.accuracy(cropped, truth)


@app.task
def pick_best(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the most accurate network; among equals, the smallest."""
    return max(results, key=lambda each: (each["accuracy"], -each["hidden"]))
