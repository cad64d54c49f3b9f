"""The Kubernetes launcher: runs each attempt as a Job, and follows its pod.

Never here: Redis, Celery, decisions about slots. ``manifest`` builds Jobs and ``status`` reads
pods, both pure. Only ``api.client`` imports the client ``kubernetes``, and only
``manifest.template_file`` imports ``yaml``. A broken watch or a failed request never counts as the
end of an attempt.
"""
