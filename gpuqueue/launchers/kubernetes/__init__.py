"""The launcher that makes a Kubernetes Job of each attempt, and follows its pod.

Never here: Redis, Celery, decisions about slots, and what a Job or a status means: manifests are
built by ``manifest.py`` and read by ``observe.py``, both pure. ``api.py`` alone imports the client
``kubernetes``, ``template_file.py`` alone ``yaml``. Nothing here concludes from a broken watch or a
failed request that an attempt has ended.
"""
