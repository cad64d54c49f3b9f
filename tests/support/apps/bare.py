"""An application that says nothing of results: where they go is for its environment to say."""

import os

from celery import Celery, Task

app = Celery("bare", broker=os.environ["CELERY_BROKER_URL"])


@app.task(bind=True)
def where(self: Task) -> dict[str, str | None]:
    return {"hostname": self.request.hostname, "home": os.environ.get("HOME")}
