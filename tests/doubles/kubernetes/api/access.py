"""Who is asking, and what they may do: tokens, and the rules of roles."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.doubles.kubernetes.objects.errors import Refused, forbidden, unauthorized
from tests.doubles.kubernetes.objects.kinds import Resource

Rule = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with a token.

    ``rules`` are those of a Role: ``apiGroups``, ``resources`` (``pods/log`` for a subresource),
    ``verbs`` and perhaps ``resourceNames``; they hold in ``namespaces`` (all, if None).
    ``cluster_rules`` are those of a ClusterRole that a ClusterRoleBinding gives. Neither: all is
    allowed.
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
        sub: str = "",
    ) -> bool:
        """Whether one action is allowed; ``resource`` may be (group, plural)."""
        if self.rules is None:
            return True
        group, plural = (
            resource if isinstance(resource, tuple) else (resource.group, resource.plural)
        )
        wanted = f"{plural}/{sub}" if sub else plural
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
    """The tokens that are known."""

    def __init__(self) -> None:
        self._users: dict[str, User] = {}
        self._granted: dict[str, tuple[Sequence[Rule], Sequence[str] | None]] = {}

    def admit(self, user: User, token: str = "") -> str:
        """Let somebody in; their token."""
        token = token or secrets.token_urlsafe(24)
        self._users[token] = user
        return token

    def grant(self, name: str, rules: Sequence[Rule], namespaces: Sequence[str] | None) -> None:
        """Say what a service account may do, whose tokens are made later."""
        self._granted[name] = (rules, namespaces)

    def granted(self, name: str, uid: str) -> User:
        """A service account, with what it was granted: nothing, unless :meth:`grant` said so."""
        rules, namespaces = self._granted.get(name, ((), None))
        return User(
            name,
            rules,
            namespaces,
            groups=("system:serviceaccounts", "system:authenticated"),
            uid=uid,
        )

    def revoke(self, token: str) -> None:
        """The token is worth nothing any more."""
        self._users.pop(token, None)

    def who(self, header: str | None) -> User:
        """Who sends this ``Authorization``; nobody in particular without one.

        Raises:
            Refused: 401.
        """
        if header is None:
            return User("system:anonymous", (), groups=("system:unauthenticated",))
        scheme, _, token = header.partition(" ")
        user = self._users.get(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise unauthorized()
        return user


def check(user: User, verb: str, resource: Resource, namespace: str, name: str, sub: str) -> None:
    """Refuse what is not allowed.

    Raises:
        Refused: 403, in the server's words.
    """
    if not user.may(verb, resource, namespace, name, sub):
        raise denied(user, verb, resource, namespace, name, sub)


def denied(
    user: User, verb: str, resource: Resource, namespace: str, name: str, sub: str
) -> Refused:
    """The refusal of an action."""
    wanted = f"{resource.plural}/{sub}" if sub else resource.plural
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    why = (
        f'User "{user.name}" cannot {verb} resource "{wanted}" in API group "{resource.group}"'
        f" {where}"
    )
    return forbidden(resource, name, why)


def access_review(user: User, body: dict[str, Any]) -> dict[str, Any]:
    """Answer a SelfSubjectAccessReview."""
    spec = body.get("spec") or {}
    asked = spec.get("resourceAttributes")
    if asked is None:
        allowed = True  # what is no resource (/version, /healthz) is open to everybody who is known
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
    """Answer a SelfSubjectReview: who the token's owner is."""
    info: dict[str, Any] = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    if user.extra:
        info["extra"] = {key: list(value) for key, value in user.extra.items()}
    return {**body, "metadata": {"creationTimestamp": None}, "status": {"userInfo": info}}
