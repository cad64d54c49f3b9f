"""Schemas of custom resources, as far as the manifests use them. They are strict, so that a wrong
field name fails.

Written by hand from the CRDs of the Prometheus Operator (monitoring.coreos.com/v1) and KEDA
(keda.sh/v1alpha1).
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION: Schema = {"type": "string", "pattern": r"^(0|([0-9]+(ms|s|m|h|d|w|y))+)$"}
COUNT: Schema = {"type": "integer", "minimum": 0}


def fields(required: dict[str, Schema], **optional: Schema) -> Schema:
    """Return a map with these fields and no others."""
    properties = {**required, **optional}
    return {
        "type": "object",
        "properties": properties,
        "required": [*required],
        "additionalProperties": False,
    }


def some(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


METADATA = fields({"name": TEXT, "namespace": TEXT, "labels": TEXTS}, annotations=TEXTS)


def kind(version: str, name: str, spec: Schema) -> Schema:
    return fields(
        {
            "apiVersion": {"const": version},
            "kind": {"const": name},
            "metadata": METADATA,
            "spec": spec,
        }
    )


_ALERT = fields(
    {
        "alert": {"type": "string", "pattern": "^[A-Z][A-Za-z]+$"},
        "expr": TEXT,
        "labels": TEXTS,
        "annotations": TEXTS,
    }
)
_ALERT["properties"]["for"] = DURATION
_ENDPOINT = fields({"port": TEXT, "path": TEXT, "interval": DURATION})
_SECRET = fields({"parameter": {"enum": ["username", "password"]}, "name": TEXT, "key": TEXT})
#: Triggers of KEDA accept only text, also for numbers.
_NUMBER: Schema = {"type": "string", "pattern": "^[0-9.]+$"}
_REDIS = fields(
    {
        "type": {"const": "redis"},
        "metadata": fields(
            {
                "address": {"type": "string", "pattern": "^[^:/]+:[0-9]+$"},
                "databaseIndex": _NUMBER,
                "enableTLS": {"enum": ["true", "false"]},
                "listName": TEXT,
                "listLength": _NUMBER,
            }
        ),
    },
    authenticationRef=fields({"name": TEXT}),
)
_PROMETHEUS = fields(
    {
        "type": {"const": "prometheus"},
        "metadata": fields(
            {
                "serverAddress": {"type": "string", "pattern": "^https?://"},
                "query": TEXT,
                "threshold": _NUMBER,
                "ignoreNullValues": {"enum": ["true", "false"]},
            }
        ),
    }
)
_SELECTOR = fields({"matchLabels": TEXTS})

#: API version and kind → its schema.
SCHEMAS: dict[tuple[str, str], Schema] = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): kind(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        fields(
            {"selector": _SELECTOR, "endpoints": some(_ENDPOINT), "podTargetLabels": some(TEXT)}
        ),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): kind(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        fields({"groups": some(fields({"name": TEXT, "rules": some(_ALERT)}))}),
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): kind(
        "keda.sh/v1alpha1",
        "ScaledObject",
        fields(
            {
                "scaleTargetRef": fields({"name": TEXT}),
                "minReplicaCount": COUNT,
                "maxReplicaCount": COUNT,
                "triggers": some({"oneOf": [_REDIS, _PROMETHEUS]}),
            }
        ),
    ),
    ("keda.sh/v1alpha1", "TriggerAuthentication"): kind(
        "keda.sh/v1alpha1", "TriggerAuthentication", fields({"secretTargetRef": some(_SECRET)})
    ),
}
