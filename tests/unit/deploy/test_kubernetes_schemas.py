"""The Kubernetes manifests against the schemas of those who read them, unknown fields refused.

Kubernetes' own come with the package kubernetes-validate (extra `manifests`). KubeRay's are in its
repository, ray-project/kuberay: KUBERAY_CRDS names the folder helm-chart/kuberay-operator/crds of a
copy.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

MANIFESTS = Path(__file__).parents[3] / "deploy" / "kubernetes"
KUBERNETES = "1.34"
CRDS = os.environ.get("KUBERAY_CRDS")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MANIFESTS / name).read_text()))


@pytest.mark.parametrize("document", documents("teacher.yaml"), ids=lambda d: str(d["kind"]))
def test_kubernetes_takes_the_teachers(document):
    checker = pytest.importorskip("kubernetes_validate")
    checker.validate(document, KUBERNETES, strict=True)
    with pytest.raises(checker.ValidationError):
        checker.validate(document | {"speck": {}}, KUBERNETES, strict=True)


@pytest.mark.skipif(CRDS is None, reason="KUBERAY_CRDS names no copy of KubeRay's CRDs")
@pytest.mark.parametrize(
    ("manifest", "crd"),
    [("ray-cluster.yaml", "ray.io_rayclusters.yaml"), ("ray-job.yaml", "ray.io_rayjobs.yaml")],
)
def test_kuberay_takes_the_cluster_and_the_job(manifest, crd):
    definition = yaml.safe_load((Path(str(CRDS)) / crd).read_text())["spec"]
    (document,) = documents(manifest)
    group, version = document["apiVersion"].split("/")
    assert (group, document["kind"]) == (definition["group"], definition["names"]["kind"])
    (schema,) = [
        v["schema"]["openAPIV3Schema"] for v in definition["versions"] if v["name"] == version
    ]
    check = jsonschema.Draft202012Validator(closed(schema))
    check.validate(document)
    wrong = copy.deepcopy(document)
    wrong["spec"]["speck"] = {}
    with pytest.raises(jsonschema.ValidationError, match="speck"):
        check.validate(wrong)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A CRD's schema as JSON schema, in which an object has the fields it lists and no others.

    Kubernetes prunes what is not listed without a word, so a misspelt field would do nothing.
    """
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = dict(schema)
    if "properties" in schema:
        found["properties"] = {k: closed(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found[key] = closed(schema[key])
    return found
