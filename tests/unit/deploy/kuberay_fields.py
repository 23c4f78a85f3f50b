"""The fields of ray.io/v1 that the manifests use, as JSON schemas in which there are no others.

Source: KubeRay's API reference at v1.7.0 (docs/reference/api.md of ray-project/kuberay); the limits
are those of its CRDs. Pod templates are Kubernetes' own and any object here.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
ANY_OBJECT: Schema = {"type": "object"}


def choice(*values: str) -> Schema:
    return TEXT | {"enum": list(values)}


def fields(*required: str, **known: Schema) -> Schema:
    """An object with fields ``known`` and no others."""
    return {
        "type": "object",
        "properties": known,
        "required": list(required),
        "additionalProperties": False,
    }


def resource(kind: str, spec: Schema) -> Schema:
    """A whole manifest."""
    return fields(
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=fields("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS),
        spec=spec,
    )


HEAD_GROUP = fields(
    "template", template=ANY_OBJECT, serviceType=TEXT, rayStartParams=TEXTS, resources=TEXTS
)
WORKER_GROUP = fields(
    "groupName",
    "maxReplicas",
    "minReplicas",
    "template",
    groupName=TEXT,
    replicas=NUMBER,
    minReplicas=NUMBER,
    maxReplicas=NUMBER,
    idleTimeoutSeconds=NUMBER,
    rayStartParams=TEXTS,
    resources=TEXTS,
    template=ANY_OBJECT,
)
RAY_CLUSTER_SPEC = fields(
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=fields(mode=choice("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=FLAG),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=fields(
        idleTimeoutSeconds=NUMBER,
        upscalingMode=choice("Default", "Aggressive", "Conservative"),
        version=choice("v1", "v2"),
    ),
    headGroupSpec=HEAD_GROUP,
    workerGroupSpecs={"type": "array", "items": WORKER_GROUP},
)
RAY_JOB_SPEC = fields(
    clusterSelector=TEXTS,
    submissionMode=TEXT,
    shutdownAfterJobFinishes=FLAG,
    entrypoint=TEXT,
    entrypointResources=TEXT,
    backoffLimit=NUMBER,
)
SCHEMAS = {
    "RayCluster": resource("RayCluster", RAY_CLUSTER_SPEC),
    "RayJob": resource("RayJob", RAY_JOB_SPEC),
}
