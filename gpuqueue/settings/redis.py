"""The settings that tell where Redis is, and how all settings read the environment."""

from __future__ import annotations

from typing import Self

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gpuqueue.errors import SettingsError
from gpuqueue.model import celery_redis
from gpuqueue.model.celery_redis import CeleryRedis
from gpuqueue.model.redis_url import (
    STATE_OPTIONS,
    has_several,
    has_wrong_database,
    has_wrong_port,
    mask,
    tls_problems,
    unknown_option,
)


def named(*names: str) -> AliasChoices:
    """Return the environment names of a field."""
    return AliasChoices(*names)


def names(kind: type[BaseSettings]) -> frozenset[str]:
    """Return the environment names of all fields of a settings class."""
    found: set[str] = set()
    for each in kind.model_fields.values():
        alias = each.validation_alias
        found.update(map(str, alias.choices if isinstance(alias, AliasChoices) else [alias]))
    return frozenset(found)


class EnvironmentSettings(BaseSettings):
    """How settings classes read the environment. The reference pages take the docstrings of the
    fields.
    """

    # In a class: the mypy plugin of pydantic reads no constant.
    model_config = SettingsConfigDict(extra="ignore", populate_by_name=True, env_ignore_empty=True)


class RedisSettings(EnvironmentSettings):
    """The addresses of broker, result backend and queue state, and their transport options."""

    broker_url: str | None = Field(None, validation_alias=named("CELERY_BROKER_URL"))
    """URL of the Celery broker, which must be Redis: ``redis://``, ``rediss://`` with
    ``ssl_cert_reqs``, ``redis+socket://``, or ``sentinel://``. Required. The queue state lives
    there too, unless GPUQUEUE_REDIS_URL is set.
    """
    broker_options: str | None = Field(
        None, validation_alias=named("GPUQUEUE_BROKER_TRANSPORT_OPTIONS")
    )
    """JSON object: the applications' ``broker_transport_options``, such as ``master_name``,
    ``sentinel_kwargs`` and ``global_keyprefix``. ``sentinel://`` requires ``master_name``.
    """
    control_exchange: str | None = Field(None, validation_alias=named("GPUQUEUE_CONTROL_EXCHANGE"))
    """The applications' ``control_exchange``. Unset: learnt from them; until then, and for Flower,
    ``celery``.
    """
    event_exchange: str | None = Field(None, validation_alias=named("GPUQUEUE_EVENT_EXCHANGE"))
    """The applications' ``event_exchange``. Unset: learnt from them; until then, and for Flower,
    ``celeryev``.
    """
    result_backend: str | None = Field(None, validation_alias=named("CELERY_RESULT_BACKEND"))
    """URL of the Celery result backend. Unset: the one that the application names, else the broker.
    """
    backend_options: str | None = Field(
        None, validation_alias=named("GPUQUEUE_RESULT_BACKEND_TRANSPORT_OPTIONS")
    )
    """JSON object: the applications' ``result_backend_transport_options``. With ``sentinel://``,
    options of Sentinels that it lacks are those of the broker.
    """
    state_url: str | None = Field(None, validation_alias=named("GPUQUEUE_REDIS_URL"))
    """URL of the Redis that holds the queue state. Unset: the broker. ``sentinel://`` may end with
    ``?master_name=NAME``; options of Sentinels that it lacks are those of the broker.
    """

    @model_validator(mode="after")
    def _redis_urls(self) -> Self:
        # What Celery's transports know.
        schemes = ("redis://", "rediss://", "redis+socket://", "sentinel://")
        for alias, url in (
            ("CELERY_BROKER_URL", self.broker_url),
            ("GPUQUEUE_REDIS_URL", self.state_url),
        ):
            if url and not url.startswith(schemes):
                raise ValueError(
                    f"{alias}={mask(url)!r} is not Redis; use one of {', '.join(schemes)}"
                )
            if url and has_several(url):
                raise ValueError(
                    f"{alias}={mask(url)!r} has several addresses; use that of one server, or those"
                    " of Sentinels (sentinel://)"
                )
            if url and has_wrong_port(url):
                raise ValueError(
                    f"{alias}={mask(url)!r} has a port that is none; use a number from 1 to 65535,"
                    " and write / ? # of a password as %2F %3F %23"
                )
            if url and has_wrong_database(url):
                raise ValueError(
                    f"{alias}={mask(url)!r} has a database that is no number; end it with /0, or"
                    " with the number of another database"
                )
        if self.broker_url and (option := unknown_option(self.broker_url)):
            raise ValueError(
                f"CELERY_BROKER_URL={mask(self.broker_url)!r} has the option {option!r}, which"
                " Celery's broker does not take; remove it: a database ends the path (/1), and"
                " options of the transport are in GPUQUEUE_BROKER_TRANSPORT_OPTIONS"
            )
        if self.state_url and (option := unknown_option(self.state_url, STATE_OPTIONS)):
            raise ValueError(
                f"GPUQUEUE_REDIS_URL={mask(self.state_url)!r} has the unknown option {option!r};"
                f" remove it, or use {', '.join(STATE_OPTIONS)}, or one of TLS (ssl_ca_certs)"
            )
        return self

    @model_validator(mode="after")
    def _valid_addresses(self) -> Self:
        _ = self.redis
        for problem in tls_problems(self.addresses):
            raise ValueError(problem)
        return self

    @property
    def addresses(self) -> dict[str, str | None]:
        """The Redis URLs by setting name."""
        return {
            "CELERY_BROKER_URL": self.broker_url,
            "CELERY_RESULT_BACKEND": self.result_backend,
            "GPUQUEUE_REDIS_URL": self.state_url,
        }

    @property
    def redis(self) -> CeleryRedis:
        """The addresses and transport options of broker, result backend and state."""
        options = {
            celery_redis.BROKER_OPTIONS: self.broker_options,
            celery_redis.BACKEND_OPTIONS: self.backend_options,
        }
        return celery_redis.read({**self.addresses, **options})

    @property
    def told(self) -> frozenset[str]:
        """What the operator says of the applications, which dispatchers then do not learn: names of
        Celery's settings, and options of the broker.
        """
        said = {
            "control_exchange": self.control_exchange,
            "event_exchange": self.event_exchange,
            "result_backend": self.result_backend,
        }
        return frozenset(self.redis.broker_options) | {name for name in said if said[name]}

    @property
    def redis_setting(self) -> str:
        """The name of the setting behind :attr:`redis_url`, for messages."""
        return "GPUQUEUE_REDIS_URL" if self.state_url else "CELERY_BROKER_URL"

    @property
    def redis_url(self) -> str:
        """The Redis URL of the queue state. Raises :class:`SettingsError` when none is set."""
        url = self.redis.state
        if not url:
            raise SettingsError(
                "CELERY_BROKER_URL is not set; set it to the applications' broker, e.g."
                " redis://localhost:6379/0"
            )
        return url
