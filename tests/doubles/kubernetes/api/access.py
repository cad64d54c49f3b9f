"""Authentication by tokens, authorization by the rules of roles."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.doubles.kubernetes.api.request_info import RequestInfo
from tests.doubles.kubernetes.objects.errors import forbidden, unauthorized
from tests.doubles.kubernetes.objects.kinds import Resource

Rule = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class User:
    """A user and their rights.

    ``rules`` are the rules of a Role: ``apiGroups``, ``resources`` (``pods/log`` for a
    subresource), ``verbs`` and optionally ``resourceNames``. They hold in ``namespaces``, or in all
    if that is None. ``cluster_rules`` are the rules of a ClusterRole with a ClusterRoleBinding. A
    user whose ``rules`` are None may do everything.
    """

    name: str
    rules: Sequence[Rule] | None = None
    namespaces: Sequence[str] | None = None
    cluster_rules: Sequence[Rule] = ()
    groups: Sequence[str] = ("system:authenticated",)
    uid: str = ""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def may(
        self,
        verb: str,
        resource: Resource | tuple[str, str],
        namespace: str,
        name: str = "",
        subresource: str = "",
    ) -> bool:
        """Whether the rules allow an action; ``resource`` may be (group, plural)."""
        if self.rules is None:
            return True
        group, plural = (
            resource if isinstance(resource, tuple) else (resource.group, resource.plural)
        )
        wanted = f"{plural}/{subresource}" if subresource else plural
        rules = list(self.cluster_rules)
        if self.namespaces is None or (namespace and namespace in self.namespaces):
            rules += self.rules
        return any(_allows(rule, verb, group, wanted, name) for rule in rules)


def _allows(rule: Rule, verb: str, group: str, resource: str, name: str) -> bool:
    names = rule.get("resourceNames")
    return (
        bool({verb, "*"} & set(rule.get("verbs", ())))
        and bool({group, "*"} & set(rule.get("apiGroups", ())))
        and bool({resource, "*"} & set(rule.get("resources", ())))
        and (not names or name in names)
    )


class Access:
    """The tokens of users, and the rights of service accounts."""

    def __init__(self) -> None:
        self._users: dict[str, User] = {}
        self._granted: dict[str, tuple[Sequence[Rule], Sequence[str] | None]] = {}

    def admit(self, user: User, token: str = "") -> str:
        """Add a user; returns their token."""
        token = token or secrets.token_urlsafe(24)
        self._users[token] = user
        return token

    def grant(self, name: str, rules: Sequence[Rule], namespaces: Sequence[str] | None) -> None:
        """Set the rights of a service account, for tokens that it gets later."""
        self._granted[name] = (rules, namespaces)

    def granted(self, name: str, uid: str) -> User:
        """Return a service account with the rights from :meth:`grant`; without them it has none."""
        rules, namespaces = self._granted.get(name, ((), None))
        return User(
            name,
            rules,
            namespaces,
            groups=("system:serviceaccounts", "system:authenticated"),
            uid=uid,
        )

    def revoke(self, token: str) -> None:
        """Make a token invalid."""
        self._users.pop(token, None)

    def authenticate(self, header: str | None) -> User:
        """Return the user of an ``Authorization`` header, the anonymous user without one.

        Raises:
            Refused: 401, the token is unknown.
        """
        if header is None:
            return User("system:anonymous", (), groups=("system:unauthenticated",))
        scheme, _, token = header.partition(" ")
        user = self._users.get(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise unauthorized()
        return user


def authorize(user: User, info: RequestInfo) -> None:
    """Check that a user may do what a request is about.

    Raises:
        Refused: 403, the user lacks the right.
    """
    resource, namespace = info.resource, info.space or info.namespace
    if user.may(info.verb, resource, namespace, info.name, info.subresource):
        return
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    why = (
        f'User "{user.name}" cannot {info.verb} resource "{info.resource_name}" in API group'
        f' "{resource.group}" {where}'
    )
    raise forbidden(resource, info.name, why)


def access_review(user: User, body: dict[str, Any]) -> dict[str, Any]:
    """Return the response to a SelfSubjectAccessReview."""
    spec = body.get("spec") or {}
    asked = spec.get("resourceAttributes")
    if asked is None:
        allowed = True  # every user may read paths that are no resource (/version, /healthz)
    else:
        allowed = user.may(
            asked.get("verb", ""),
            (asked.get("group", ""), asked.get("resource", "")),
            asked.get("namespace", ""),
            asked.get("name", ""),
            asked.get("subresource", ""),
        )
    return {**body, "metadata": {}, "status": {"allowed": allowed}}


def self_review(user: User, body: dict[str, Any]) -> dict[str, Any]:
    """Return the response to a SelfSubjectReview: the user of the token."""
    info: dict[str, Any] = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    if user.extra:
        info["extra"] = {key: list(value) for key, value in user.extra.items()}
    return {**body, "metadata": {"creationTimestamp": None}, "status": {"userInfo": info}}
