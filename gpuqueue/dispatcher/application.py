"""What a dispatcher knows of its application: where that keeps its results, and how it names the
lists and channels of the broker.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from gpuqueue.model.profile import EXCHANGES, Profile, are_learnt, differences
from gpuqueue.store.profiles import Profiles

logger = logging.getLogger(__name__)


class Application:
    """The application of a dispatcher, as far as its profile is known. Thread-safe.

    Args:
        app: the Celery application of the dispatcher.
        own: the profile of the dispatcher.
        name: GPUQUEUE_APP; None: the images of pods name it.
        told: what the operator has set: names as in :meth:`Profile.broker`, and
            ``result_backend``.
        profiles: what processes that import the application tell.
        again: has messages, commands and events read and sent as the options name them now.
    """

    def __init__(
        self,
        app: Any,
        own: Profile,
        name: str | None,
        told: frozenset[str],
        profiles: Profiles,
        again: Callable[[], object],
    ) -> None:
        self._app = app
        self._own = own
        self._name = name
        self._told = told
        self._profiles = profiles
        self._again = again
        self._broker = own.broker()
        self._lock = threading.Lock()
        self._known: dict[str, Profile] = {}  # by the image of its jobs; "": of the class
        self._silent: set[str] = set()
        self._unkept: Profile | None = None

    def has_our_results(self, image: str | None = None) -> bool | None:
        """Whether a result that this dispatcher writes is one of the application, in the image that
        a job asks for. Else the application writes all of them. None: it may have another backend.
        """
        known = self.reads_our_results(image)
        return True if known is None and "result_backend" in self._told else known

    def reads_our_results(self, image: str | None = None) -> bool | None:
        """Whether the application reads what this dispatcher writes, as it has told itself: the
        address of a result backend does not say how its results are written. None: it has not.
        """
        profile = self._known.get(image or "") or self._known.get("")
        if profile is not None:
            return profile.has_results_of(self._own)
        return True if (image or "") in self._silent else None

    def limit_of(self, task: str, image: str | None = None) -> float | None:
        """Return the hard limit that a task declares in the image that a job asks for, in seconds;
        0: none. None: not known.
        """
        profile = self._known.get(image or "")
        return profile.limit_of(task) if profile is not None else None

    def look(self) -> None:
        """Read what executors have told, and tell what a runner has. Raises RedisError."""
        with self._lock:
            unkept, self._unkept = self._unkept, None
        if unkept is not None and self._name:
            try:
                self._profiles.keep(self._name, "", unkept.described())
            except Exception:
                self._unkept = unkept
                raise
        for image, described in self._profiles.of(self._name).items():
            if (profile := Profile.parse(described)) is not None:
                self.learn(profile, image, kept=True)

    def asked(self, image: str | None) -> None:
        """Its code has run, and has told what it tells: with an older gpuqueue in its image it
        tells nothing, and keeps results where its dispatchers do. Raises RedisError.
        """
        self.look()
        if self.has_our_results(image) is None:
            self._silent.add(image or "")

    def learn(self, profile: Profile, image: str = "", *, kept: bool = False) -> None:
        """Take over what the application says. ``kept``: other dispatchers can read it, too."""
        with self._lock:
            if profile == self._known.get(image):
                return
            self._known[image] = profile
            if not kept:
                self._unkept = profile
            if not image:  # one dispatcher writes one form of results: that of the class's image
                self._app.conf.result_extended = profile.extended
                self._app.conf.task_store_errors_even_if_ignored = profile.errors_if_ignored
            differing = self._differing(profile, image)
            if not profile.has_results_of(self._own):
                logger.info(
                    "%s keeps its results in %s (%s): it writes all of them itself",
                    self._shown(image),
                    profile.shown,
                    profile.serializer,
                    extra={"action": "results_elsewhere"},
                )
        if differing:
            self._take_over(differing)

    def _shown(self, image: str) -> str:
        return f"{self._name or 'the application'}{f' in {image}' if image else ''}"

    def _differing(self, profile: Profile, image: str) -> dict[str, Any]:
        """Return what to take over."""
        found = differences(profile, self._broker)
        # One dispatcher reads by one set of names: that of its application in the class's image.
        if image or not are_learnt(found, self._told):
            for each in found:
                logger.error(each.shown(self._shown(image)), extra={"action": "broker_differs"})
            return {}
        differing = {each.name: each.theirs for each in found}
        self._broker |= differing
        return differing

    def _take_over(self, differing: Mapping[str, Any]) -> None:
        conf = self._app.conf
        options = dict(differing)
        for name in EXCHANGES & differing.keys():
            conf[name] = options.pop(name)
        conf.broker_transport_options = {**conf.broker_transport_options, **options}
        # Its mailbox has the exchange of before.
        vars(self._app).pop("control", None)
        logger.info(
            "messages, commands and events go by the settings of %s: %s",
            self._shown(""),
            json.dumps(differing),
            extra={"action": "broker_learnt"},
        )
        self._again()
