"""What the custom resources in the manifests may say, as their definitions document it.

Of each field that the manifests use, and of those that are required:
- https://keda.sh/docs/latest/reference/scaledobject-spec/ and scalers/postgresql/
- https://keda.sh/docs/latest/concepts/authentication/ (TriggerAuthentication)
- https://prometheus-operator.dev/docs/api-reference/api/ (PodMonitor, PrometheusRule)

A type is the field's; a dict has fields of its own; a list has items like its one. `!` begins the
name of a field that is required.
"""

from collections.abc import Iterator
from typing import Any

SELECTOR = {
    "matchLabels": {str: str},
    "matchExpressions": [{"!key": str, "!operator": str, "values": [str]}],
}
SCALING = {
    "stabilizationWindowSeconds": int,
    "selectPolicy": str,
    "policies": [{"!type": str, "!value": int, "!periodSeconds": int}],
}
SCALED_OBJECT = {
    "!scaleTargetRef": {"!name": str, "kind": str, "envSourceContainerName": str},
    "pollingInterval": int,
    "cooldownPeriod": int,
    "minReplicaCount": int,
    "maxReplicaCount": int,
    "advanced": {
        "restoreToOriginalReplicaCount": bool,
        "horizontalPodAutoscalerConfig": {
            "name": str,
            "behavior": {"scaleDown": SCALING, "scaleUp": SCALING},
        },
    },
    "!triggers": [
        {
            "!type": str,
            "name": str,
            "metricType": str,
            "authenticationRef": {"!name": str, "kind": str},
            # Of the scaler for PostgreSQL. Every value is a string.
            "!metadata": {
                "connectionFromEnv": str,
                "!query": str,
                "!targetQueryValue": str,
                "activationTargetQueryValue": str,
            },
        }
    ],
}
TRIGGER_AUTHENTICATION = {
    # Of the scaler for PostgreSQL, `connection`, or its parts: `host`, `port`, `userName` and more.
    "secretTargetRef": [{"!parameter": str, "!name": str, "!key": str}],
}
POD_MONITOR = {
    "jobLabel": str,
    "!selector": SELECTOR,
    "!podMetricsEndpoints": [
        {
            "port": str,
            "path": str,
            "scheme": str,
            "interval": str,
            "scrapeTimeout": str,
            "authorization": {
                "type": str,
                "credentials": {"!key": str, "name": str, "optional": bool},
            },
        }
    ],
}
PROMETHEUS_RULE = {
    "!groups": [
        {
            "!name": str,
            "interval": str,
            "rules": [
                {
                    "alert": str,
                    "record": str,
                    "!expr": str,
                    "for": str,
                    "keep_firing_for": str,
                    "labels": {str: str},
                    "annotations": {str: str},
                }
            ],
        }
    ]
}
SPECS = {
    ("keda.sh/v1alpha1", "ScaledObject"): SCALED_OBJECT,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): TRIGGER_AUTHENTICATION,
    ("monitoring.coreos.com/v1", "PodMonitor"): POD_MONITOR,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PROMETHEUS_RULE,
}


def faults(value: object, wanted: Any, at: str) -> Iterator[str]:
    """What of a value its definition does not have, or has otherwise."""
    if isinstance(wanted, list):
        if not isinstance(value, list):
            yield f"{at} is no list"
            return
        for number, item in enumerate(value):
            yield from faults(item, wanted[0], f"{at}[{number}]")
    elif isinstance(wanted, dict):
        if not isinstance(value, dict):
            yield f"{at} has no fields"
            return
        fields = {name.lstrip("!") if name is not str else str: of for name, of in wanted.items()}
        for name in wanted:
            if name is not str and name.startswith("!") and name[1:] not in value:
                yield f"{at} lacks {name[1:]}"
        for name, item in value.items():
            known = fields.get(name, fields.get(str))
            if known is None:
                yield f"{at} has no field {name}"
            else:
                yield from faults(item, known, f"{at}.{name}")
    elif type(value) is not wanted:
        yield f"{at} is no {wanted.__name__}"
