"""What the deployment files promise, read from them: no container runs here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from student_trainer.config import RunConfig, load_config
from student_trainer.observers import PrometheusObserver
from teacher_service.metrics import Metrics
from teacher_service.refusals import Refusal

ROOT = Path(__file__).parents[3]
OBSERVABILITY = ROOT / "deploy" / "observability"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_can_do_no_more_than_it_must(name):
    service = SERVICES[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service and "pid" not in service
    # The one that hands folders over begins as root; it has no network.
    if name == "prepare":
        assert service["network_mode"] == "none" and "ports" not in service
    else:
        assert not service["user"].startswith(("root", "0")) and "cap_add" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_published_but_on_loopback(name):
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")
    assert bool(SERVICES[name].get("ports")) == (
        name in {"teacher", "teacher-gpu", "prometheus", "grafana"}
    )


def test_ray_is_reached_from_the_inside_alone_and_asks_for_its_token():
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name in ("ray-head", "worker"):
        assert SERVICES[name]["networks"] == ["inside"]
    for name in ("ray-head", "worker", "trainer", "trainer-gpu"):
        assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token"


def test_what_is_published_has_no_way_out():
    options = COMPOSE["networks"]["published"]["driver_opts"]
    assert options["com.docker.network.bridge.enable_ip_masquerade"] == "false"
    outside = {name for name, x in SERVICES.items() if "downloads" in x.get("networks", [])}
    assert outside == {"trainer", "trainer-gpu"}


@pytest.mark.parametrize("compose", [("docker-compose",), ("docker", "compose")], ids=" ".join)
def test_each_compose_that_is_installed_takes_the_file(compose):
    """1.29 and v2 read it differently; neither needs an engine for this."""
    try:
        found = subprocess.run([*compose, "version"], capture_output=True).returncode == 0
    except FileNotFoundError:
        found = False
    if not found:
        pytest.skip("not installed")
    everything = ["--profile", "gpu", "--profile", "observability"]
    for profiles in ([], everything):
        done = subprocess.run(
            [*compose, *profiles, "config", "-q"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_images_have_a_torch_without_cuda_unless_another_is_asked_for():
    for service in ("prepare", "teacher", "ray-head", "worker", "trainer", "teacher-gpu"):
        assert SERVICES[service]["build"]["args"]["TORCH_BUILD"] == "${TORCH_BUILD:-cpu}"
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    assert "ARG TORCH_BUILD=cpu\n" in dockerfile
    install = dockerfile[dockerfile.index("--extra-index-url") :]
    checked = install.index('check_torch.py "${TORCH_BUILD}"')
    assert install.index("teacher.txt") < checked < install.index("\n\n")


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_are_files_read_only_and_never_in_the_environment(name):
    service = SERVICES[name]
    for variable in service.get("environment", {}):
        assert not re.search("TOKEN|KEY|PASSWORD|SECRET", variable) or variable.endswith("_PATH")
    for volume in service.get("volumes", []):
        if "/secrets" in volume and name != "prepare":
            assert volume.endswith(":ro")


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_built_here_or_pinned(name):
    service = SERVICES[name]
    image = re.fullmatch(r"\$\{\w+:-(.+)\}", service["image"])
    assert image is not None
    if "build" not in service:
        assert re.search(r":v?\d+\.\d+\.\d+$", image[1])


def test_the_trainers_overrides_are_a_valid_configuration():
    for name in ("trainer", "trainer-gpu"):
        command = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", SERVICES[name]["command"])
        overrides = [word for word in command.split() if "=" in word]
        config = load_config(ROOT / "configs/ui_strings/demo.yaml", overrides)
        assert (config.workers, config.workers_at_start) == (8, 1)
        assert config.device == ("cuda" if name == "trainer-gpu" else "cpu")


def test_what_the_builder_is_sent_is_a_list_of_what_it_needs():
    """With `*` first nothing new in the tree, a secret above all, reaches a layer unasked."""
    lines = [x for x in (ROOT / ".dockerignore").read_text().splitlines() if x and x[0] != "#"]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    wanted = {name for group in copied for name in group.split()}
    assert {w for w in wanted if not w.startswith("deploy/docker/")} | {"deploy/docker"} == sent
    assert all((ROOT / name).exists() for name in wanted)


def queue_gauges() -> list[Any]:
    """What a server shows of its queues."""
    from teacher_service.metrics import _queues

    class Idle:
        def waiting(self) -> dict[str, tuple[int, int, int]]:
            return {}

        def waited(self) -> dict[str, float]:
            return {}

    idle: Any = Idle()
    return list(_queues(idle))


def exported(plain_config: dict[str, Any]) -> set[str]:
    """Names of all metrics that teacher and trainer show, but those that come with a model."""
    from prometheus_client import generate_latest

    from teacher_service.metrics import _caches

    class Empty:
        held = budget = hits = misses = evictions = 0

        def __len__(self) -> int:
            return 0

    idle: Any = Empty()
    text = generate_latest(Metrics().registry).decode()
    names = {f"{m.name}_total" for m in _caches({"x": idle}) if m.type == "counter"}
    names |= {m.name for m in [*_caches({"x": idle}), *queue_gauges()] if m.type == "gauge"}
    observer = PrometheusObserver(RunConfig(**plain_config | {"metrics_address": "127.0.0.1:0"}))
    observer.close()
    text += generate_latest(observer.registry).decode()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        names |= {name} if kind != "histogram" else {f"{name}_{x}" for x in BUCKETS}
    return names | {"up"}


BUCKETS = ("bucket", "sum", "count")


def used() -> set[str]:
    """Names of all metrics in alerts and dashboard."""
    alerts = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())
    found = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    dashboard = json.loads((OBSERVABILITY / "grafana" / "imitkd.json").read_text())
    found += [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])]
    named = re.compile(r"\b(?:up|(?:teacher|trainer|process)_\w+)(?=[{\[) ]|$)")
    return {name for text in found for name in named.findall(re.sub(r'"[^"]*"', '""', text))}


def test_alerts_and_dashboard_ask_for_what_is_shown(plain_config):
    wanted, shown = used(), exported(plain_config)
    assert len(wanted) > 15 and wanted <= shown, wanted - shown


def test_alerts_name_reasons_that_exist():
    from teacher_service.metrics import reason_of

    known = {reason_of(kind.__new__(kind)) for kind in all_refusals(Refusal)}
    text = (OBSERVABILITY / "alerts.yml").read_text()
    named = {r for x in re.findall(r'reason=~?"([^"]+)"', text) for r in x.split("|")}
    assert named and named <= known


def all_refusals(kind: type[Refusal]) -> list[type[Refusal]]:
    """A class and all that derive from it."""
    return [kind, *(x for child in kind.__subclasses__() for x in all_refusals(child))]


def test_the_cluster_file_is_one_of_rays():
    """As `ray up` reads it: filled out, then checked with the schema of the installed package."""
    util = pytest.importorskip("ray.autoscaler._private.util")
    found = yaml.safe_load((ROOT / "deploy/ray/cluster.yaml").read_text())
    whole = util.prepare_config(found)
    util.validate_config(whole)
    assert whole["max_workers"] == 2
    with pytest.raises(Exception, match="idle_minutes"):
        util.validate_config(whole | {"idle_minutes": 5})


def test_every_node_of_the_cluster_file_has_rays_token_and_finds_the_program():
    found = yaml.safe_load((ROOT / "deploy/ray/cluster.yaml").read_text())
    for place in ("head", "worker"):
        command = found[f"{place}_start_ray_commands"][-1]
        exported, start = command.split(" && ")
        assert start.startswith("ray start ")
        assert exported.split() == [
            "export",
            "PATH=/opt/imitkd/bin:$PATH",
            "RAY_AUTH_MODE=token",
            "RAY_AUTH_TOKEN_PATH=/etc/imitkd/ray-token",
        ]


def test_a_job_goes_to_the_cluster_and_asks_for_what_its_head_mounts():
    folder = ROOT / "deploy" / "kubernetes"
    cluster = yaml.safe_load((folder / "ray-cluster.yaml").read_text())
    job = yaml.safe_load((folder / "ray-job.yaml").read_text())["spec"]
    assert job["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    program, command, config, *rest = job["entrypoint"].split()
    assert (program, command) == ("imitkd", "train")
    settings = load_config(ROOT / config, [word for word in rest if "=" in word])
    (head,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    mounts = tuple(m["mountPath"] + "/" for m in head["volumeMounts"])
    files = [settings.teacher.token_file, settings.teacher.root_certificates, settings.corpus.path]
    for path in [*map(str, files), rest[rest.index("--output") + 1]]:
        assert path.startswith(mounts)


def test_kubernetes_has_the_names_the_rest_goes_by():
    """Ports, labels and secrets of one manifest are those that another one asks for."""
    folder = ROOT / "deploy" / "kubernetes"
    teacher = {d["kind"]: d for d in yaml.safe_load_all((folder / "teacher.yaml").read_text())}
    cluster = yaml.safe_load((folder / "ray-cluster.yaml").read_text())
    pod = teacher["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    for kind, where in (("Service", "selector"), ("NetworkPolicy", "podSelector")):
        wanted = teacher[kind]["spec"][where]
        assert wanted.get("matchLabels", wanted) == labels
    (container,) = pod["spec"]["containers"]
    assert {p["name"]: p["containerPort"] for p in container["ports"]} == {
        p["name"]: p["port"] for p in teacher["Service"]["spec"]["ports"]
    }
    arguments = dict(a.split("=") for a in container["args"] if "=" in a)
    grace = float(arguments["--lame-duck-s"]) + float(arguments["--drain-grace-s"])
    assert pod["spec"]["terminationGracePeriodSeconds"] > grace
    allowed = teacher["NetworkPolicy"]["spec"]["ingress"][0]["from"][0]["podSelector"]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        asking = group["template"]
        assert allowed["matchLabels"].items() <= asking["metadata"]["labels"].items()
    assert cluster["spec"]["authOptions"]["mode"] == "token"


def test_the_autoscalers_metric_is_a_pods_whole_queue():
    """From the gauge, by the scrape's labels and the adapter's rule, to what is asked for."""
    teacher = {
        d["kind"]: d
        for d in yaml.safe_load_all((ROOT / "deploy/kubernetes/teacher.yaml").read_text())
    }
    wanted = teacher["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    folder = OBSERVABILITY / "kubernetes"
    (rule,) = yaml.safe_load((folder / "prometheus-adapter.yml").read_text())["rules"]
    series, labels = re.fullmatch(r"(\w+)\{(.*)\}", rule["seriesQuery"]).groups()
    assert rule["name"]["as"] == wanted and series in {m.name for m in queue_gauges()}
    assert rule["metricsQuery"].startswith("sum(<<.Series>>{")
    assert rule["metricsQuery"].endswith(") by (<<.GroupBy>>)")

    (job,) = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"]
    keep, *targets = job["relabel_configs"]
    assert {t["target_label"] for t in targets} == set(rule["resources"]["overrides"])
    assert re.findall(r"(\w+)!=", labels) == list(rule["resources"]["overrides"])
    pod = teacher["Deployment"]["spec"]["template"]
    name, port = keep["regex"].split(";")
    assert pod["metadata"]["labels"] == {"app.kubernetes.io/name": name}
    assert port in {p["name"] for p in pod["spec"]["containers"][0]["ports"]}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ],
)
def test_promtool_agrees(arguments):
    done = subprocess.run(
        ["promtool", *arguments], cwd=OBSERVABILITY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
