"""The Kubernetes manifests against the schemas of those who read them, unknown fields refused.

Kubernetes' own come with the package kubernetes-validate (extra `manifests`), for the pods of the
Ray cluster too. KubeRay's are in no package: its fields that are used here stand in
kuberay_fields.py. Where KUBERAY_CRDS names the folder helm-chart/kuberay-operator/crds of a copy of
its repository, ray-project/kuberay, manifests and that list are held against the whole.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.unit.deploy.kuberay_fields import SCHEMAS

MANIFESTS = Path(__file__).parents[3] / "deploy" / "kubernetes"
KUBERNETES = "1.34"
MANIFEST = {"RayCluster": "ray-cluster.yaml", "RayJob": "ray-job.yaml"}
CRDS = os.environ.get("KUBERAY_CRDS")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MANIFESTS / name).read_text()))


@pytest.mark.parametrize("document", documents("teacher.yaml"), ids=lambda d: str(d["kind"]))
def test_kubernetes_takes_the_teachers(document):
    checker = pytest.importorskip("kubernetes_validate")
    checker.validate(document, KUBERNETES, strict=True)
    with pytest.raises(checker.ValidationError):
        checker.validate(document | {"speck": {}}, KUBERNETES, strict=True)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_kuberay_takes_the_fields_that_are_used(kind):
    document = ray_manifest(kind)
    check = jsonschema.Draft202012Validator(SCHEMAS[kind])
    check.validate(document)
    for wrong, why in spoilt(document):
        with pytest.raises(jsonschema.ValidationError, match=why):
            check.validate(wrong)


def spoilt(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The manifest with an unknown field in each object of KubeRay's, then with a wrong value."""
    inner = [("spec", k) for k, v in document["spec"].items() if isinstance(v, dict | list)]
    for path in [(), ("spec",), *inner]:
        wrong = copy.deepcopy(document)
        part = wrong
        for key in path:
            part = part[key]
        (part[0] if isinstance(part, list) else part)["speck"] = {}
        yield wrong, "speck"
    yield {**document, "apiVersion": "ray.io/v1alpha1"}, "ray.io/v1"


@pytest.mark.parametrize("group", ["head", "rollout"])
def test_kubernetes_takes_the_pods_of_the_ray_cluster(group):
    checker = pytest.importorskip("kubernetes_validate")
    template = pod_templates()[group]
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {}, "template": template}
    checker.validate(pod, KUBERNETES, strict=True)
    wrong = copy.deepcopy(pod)
    wrong["template"]["spec"]["containers"][0]["speck"] = {}
    with pytest.raises(checker.ValidationError):
        checker.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.parametrize("group", ["head", "rollout"])
def test_a_pod_has_the_volumes_that_its_container_mounts_and_no_others(group):
    """One that is attached and not mounted holds a pod up where its claim allows one node alone."""
    spec = pod_templates()[group]["spec"]
    (container,) = spec["containers"]
    assert {v["name"] for v in spec["volumes"]} == {m["name"] for m in container["volumeMounts"]}
    assert ("runs" in {v["name"] for v in spec["volumes"]}) == (group == "head")


def ray_manifest(kind: str) -> dict[str, Any]:
    (document,) = documents(MANIFEST[kind])
    return document


def pod_templates() -> dict[str, Any]:
    """By group, the pods of the Ray cluster."""
    spec = ray_manifest("RayCluster")["spec"]
    workers = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"], **workers}


def definition(kind: str) -> dict[str, Any]:
    """KubeRay's own, from the copy."""
    text = (Path(str(CRDS)) / f"ray.io_{kind.lower()}s.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)["spec"]
    return found


def kuberay_schema(kind: str) -> dict[str, Any]:
    (found,) = [v["schema"] for v in definition(kind)["versions"] if v["name"] == "v1"]
    schema: dict[str, Any] = found["openAPIV3Schema"]
    return schema


@pytest.mark.skipif(CRDS is None, reason="KUBERAY_CRDS names no copy of KubeRay's CRDs")
@pytest.mark.parametrize("kind", SCHEMAS)
def test_kuberay_takes_the_cluster_and_the_job(kind):
    document, its = ray_manifest(kind), definition(kind)
    assert document["apiVersion"] == f"{its['group']}/v1" and kind == its["names"]["kind"]
    check = jsonschema.Draft202012Validator(closed(kuberay_schema(kind)))
    check.validate(document)
    wrong = copy.deepcopy(document)
    wrong["spec"]["speck"] = {}
    with pytest.raises(jsonschema.ValidationError, match="speck"):
        check.validate(wrong)


@pytest.mark.skipif(CRDS is None, reason="KUBERAY_CRDS names no copy of KubeRay's CRDs")
@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_listed_fields_are_kuberays(kind):
    ours, its = SCHEMAS[kind]["properties"]["spec"], kuberay_schema(kind)["properties"]["spec"]
    same_fields(ours, its, "spec")


def same_fields(ours: dict[str, Any], its: dict[str, Any], where: str) -> None:
    """Whether what is listed here has KubeRay's types, choices and required fields."""
    assert ours["type"] == its["type"] and ours.get("enum") == its.get("enum"), where
    if "properties" not in ours:
        return
    assert set(ours["required"]) == set(its.get("required", [])), where
    for name, schema in ours["properties"].items():
        assert name in its["properties"], f"{where}.{name}"
        same_fields(schema, its["properties"][name], f"{where}.{name}")
        if "items" in schema:
            same_fields(schema["items"], its["properties"][name]["items"], f"{where}.{name}[]")


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
