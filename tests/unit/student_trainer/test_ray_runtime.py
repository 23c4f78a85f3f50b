"""Where actors run, and joining or starting Ray; nothing here starts one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from seq2seq.errors import UserError
from student_trainer.config import RunConfig
from student_trainer.ray_runtime import actors, cluster
from student_trainer.ray_runtime.cluster import Home
from student_trainer.ray_runtime.executor import _absolute
from student_trainer.ray_runtime.placement import plan
from student_trainer.ray_runtime.room import Demand

# A node as Ray names it.
HERE = "ab" * 28


@pytest.fixture
def config_of(plain_config: dict[str, Any]):
    return lambda **changes: RunConfig(**(plain_config | changes))


def test_on_one_machine_nothing_is_reserved(config_of):
    found = plan(config_of(workers=16, worker_threads=4), 1, {"CPU": 2.0})
    assert found.worker["num_cpus"] == found.learner["num_cpus"] == 0
    assert found.learner["num_gpus"] == 0 and found.learner_device == "cpu"
    assert found.demand is None and "scheduling_strategy" not in found.worker


@pytest.mark.parametrize(
    ("cpus", "joined", "at_start", "reserves"),
    [
        (0.0, True, None, True),  # a head that keeps actors off: nodes will join
        (0.0, True, 1, True),
        (4.0, True, 1, True),  # who need not begin with all workers waits for nodes
        (4.0, True, None, False),
        (1.0, False, None, False),  # a laptop, whatever is asked for
        (1.0, False, 1, False),
    ],
)
def test_a_single_node_may_be_the_first_of_several(config_of, cpus, joined, at_start, reserves):
    config = config_of(workers=8, workers_at_start=at_start, worker_threads=2, learner_threads=2)
    found = plan(config, 1, {"CPU": cpus}, Home(HERE, cpus, 0.0, "node:here", joined))
    if not reserves:
        assert found.worker["num_cpus"] == found.learner["num_cpus"] == 0
        assert found.demand is None and "scheduling_strategy" not in found.worker
        return
    assert (found.worker["num_cpus"], found.worker["scheduling_strategy"]) == (2, "SPREAD")
    assert found.learner["scheduling_strategy"].node_id == HERE
    assert found.learner["num_cpus"] == min(2, cpus)
    assert found.demand == Demand(at_start or 8, 2, min(2, int(cpus)))


def test_on_several_machines_threads_are_reserved_and_workers_spread(config_of):
    config = config_of(workers=3, worker_threads=2, learner_threads=4)
    found = plan(config, 2, {"CPU": 10.0})
    assert (found.worker["num_cpus"], found.learner["num_cpus"]) == (2, 4)
    assert found.worker["scheduling_strategy"] == "SPREAD"
    assert found.demand == Demand(workers=3, worker_threads=2, learner_cpus=4)
    assert found.demand.lacks(10.0) == ""
    assert found.demand.lacks(9.0).endswith("need 10 CPUs, the Ray cluster has 9")


@pytest.mark.parametrize(("offered", "reserved"), [(8.0, 4), (1.0, 1), (0.0, 0)])
def test_the_learner_stays_where_the_run_directory_is(config_of, offered, reserved):
    config = config_of(workers=2, learner_threads=4)
    found = plan(config, 3, {"CPU": 2.0 + offered}, Home(HERE, offered, 0.0))
    strategy = found.learner["scheduling_strategy"]
    assert (strategy.node_id, strategy.soft) == (HERE, False)
    assert found.learner["num_cpus"] == reserved
    assert found.worker["scheduling_strategy"] == "SPREAD"


def test_a_learner_on_a_gpu_goes_where_one_is(config_of):
    config = config_of(device="cuda")
    resources = {"CPU": 8.0, "GPU": 1.0}
    elsewhere = plan(config, 2, resources, Home(HERE, 4.0, 0.0)).learner
    assert "scheduling_strategy" not in elsewhere and elsewhere["num_gpus"] == 1
    here = plan(config, 2, resources, Home(HERE, 4.0, 1.0)).learner
    assert here["scheduling_strategy"].node_id == HERE


def test_only_the_workers_of_the_start_must_fit(config_of):
    config = config_of(workers=100, workers_at_start=2)
    assert plan(config, 3, {"CPU": 2.0}, Home(HERE, 0.0, 0.0)).worker["num_cpus"] == 1
    small = plan(config, 3, {"CPU": 1.0}, Home(HERE, 0.0, 0.0)).demand
    assert small is not None and small.lacks(1.0).startswith("2 workers of 1 threads")
    assert "workers_at_start" in small.remedy


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_the_learner_gets_one_gpu_and_sees_no_other(config_of, device):
    found = plan(config_of(device=device), 1, {"CPU": 2.0, "GPU": 8.0})
    assert (found.learner["num_gpus"], found.learner_device) == (1, "cuda")
    assert "num_gpus" not in found.worker


def test_a_cluster_without_gpu_is_refused_at_once(config_of):
    with pytest.raises(UserError, match=r"device cuda: the Ray cluster has no GPU; .*device=cpu"):
        plan(config_of(device="cuda"), 1, {"CPU": 2.0})


def test_a_learner_of_several_processes_on_one_machine_reserves_its_gpus_alone(config_of):
    on_cpu = plan(config_of(learner_processes=4), 1, {"CPU": 2.0})
    assert on_cpu.bundles == [] and on_cpu.follower["num_cpus"] == on_cpu.follower["num_gpus"] == 0
    on_gpu = plan(config_of(learner_processes=4, device="cuda"), 1, {"CPU": 2.0, "GPU": 4.0})
    assert on_gpu.bundles == [] and on_gpu.follower["num_gpus"] == 1
    with pytest.raises(UserError, match=r"learner_processes 4 take a GPU each, .* has 3; lower"):
        plan(config_of(learner_processes=4, device="cuda"), 1, {"CPU": 2.0, "GPU": 3.0})


def test_processes_of_a_learner_take_their_room_together_the_leader_at_home(config_of):
    config = config_of(learner_processes=3, learner_threads=4, workers=2, device="cuda")
    resources = {"CPU": 11.0, "GPU": 3.0}
    found = plan(config, 3, resources, Home(HERE, 1.0, 1.0, "node:10.0.0.1"))
    other = {"CPU": 4, "GPU": 1}
    assert found.bundles == [{"CPU": 1, "GPU": 1, "node:10.0.0.1": 0.001}, other, other]
    assert (found.follower["num_cpus"], found.follower["num_gpus"]) == (4, 1)
    assert "scheduling_strategy" not in found.follower
    nothing = plan(
        config_of(learner_processes=2), 2, {"CPU": 2.0}, Home(HERE, 0.0, 0.0, "node:10.0.0.1")
    )
    assert nothing.bundles == [{"node:10.0.0.1": 0.001}, {"CPU": 1}]
    elsewhere = plan(config, 3, resources | {"CPU": 14.0}, Home(HERE, 0.0, 0.0, "node:10.0.0.1"))
    assert elsewhere.bundles == [other] * 3
    assert found.demand == Demand(2, 1, 9, "workers, learner_processes")
    assert "a learner of 9 need 11 CPUs" in found.demand.lacks(10.0)
    assert plan(config_of(), 3, resources, Home(HERE, 1.0, 0.0, "node:10.0.0.1")).bundles == []


def test_ray_never_restarts_an_actor_or_repeats_a_call_by_itself(config_of):
    found = plan(config_of(), 1, {})
    for options in (found.worker, found.learner, found.follower):
        assert options["max_restarts"] == options["max_task_retries"] == 0


class FakeRay:
    """In place of the module: fails to start so many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls: list[dict[str, Any]] = []

    def is_initialized(self) -> bool:
        return False

    def init(self, **arguments: Any) -> None:
        self.calls.append(arguments)
        if len(self.calls) <= self.failures:
            raise Exception("The node timed out.\nA long story follows.")

    def shutdown(self) -> None:
        pass


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch):
    def make(failures: int = 0) -> FakeRay:
        fake = FakeRay(failures)
        monkeypatch.setattr(cluster, "ray", fake)
        return fake

    return make


def test_a_local_ray_is_small_and_quiet_and_tried_again(fake_ray, monkeypatch, caplog):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    fake = fake_ray(failures=2)
    assert cluster.connect().started_here
    last = fake.calls[-1]
    assert len(fake.calls) == 3 and last["address"] == "local"
    assert last["object_store_memory"] == 256 << 20
    assert not last["include_dashboard"] and not last["log_to_driver"]
    told = [r.getMessage() for r in caplog.records]
    assert told == ["Ray did not start in time (The node timed out.); trying again"] * 2


def test_a_ray_that_does_not_start_is_one_line(fake_ray, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    fake_ray(failures=3)
    with pytest.raises(UserError) as caught:
        cluster.connect()
    assert str(caught.value) == (
        "Ray does not start here (The node timed out.); use --runtime inline"
    )


def test_a_cluster_that_is_not_there_is_named(fake_ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    fake = fake_ray(failures=1)
    with pytest.raises(UserError, match=r"to join at RAY_ADDRESS=head:6379 .*unset RAY_ADDRESS"):
        cluster.connect()
    assert [c["address"] for c in fake.calls] == ["head:6379"]


def test_a_cluster_that_asks_for_a_token_is_told_apart(fake_ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    fake = fake_ray()

    def init(**_: Any) -> None:
        raise ConnectionError("no connection") from RuntimeError("InvalidAuthToken: missing")

    fake.init = init  # type: ignore[method-assign]
    with pytest.raises(UserError, match="set RAY_AUTH_MODE=token"):
        cluster.connect()


def test_a_cluster_that_was_there_stays(fake_ray):
    fake = fake_ray()
    fake.is_initialized = lambda: True  # type: ignore[method-assign]
    fake.shutdown = lambda: pytest.fail("not ours to stop")  # type: ignore[method-assign]
    joined = cluster.connect()
    joined.close()
    assert not joined.started_here and fake.calls == []


def test_actors_get_absolute_paths(config_of, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = config_of(
        corpus={"path": "data/x"},
        vocabulary={"from": "teachers/x"},
        teacher={"address": "x:1", "token_file": "token"},
    )
    found = _absolute(config)
    assert found.corpus.path == tmp_path / "data/x"
    assert found.vocabulary.from_ == tmp_path / "teachers/x"
    assert found.teacher is not None and found.teacher.token_file == tmp_path / "token"
    assert found.model == config.model and config.corpus.path == Path("data/x")


def test_weights_go_through_the_object_store_without_a_change():
    weights = {"a": torch.randn(3, 4), "b": torch.randn(())}
    arrays = actors.to_arrays(weights)
    for array in arrays.values():
        array.setflags(write=False)
    found = actors.to_tensors(arrays)
    assert all(torch.equal(found[k], weights[k]) for k in weights)


def test_actors_get_absolute_paths_of_several_corpora(config_of, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = config_of(corpus={"paths": {"a": "data/a", "b": "/b"}})
    assert _absolute(config).corpus.paths == {"a": tmp_path / "data/a", "b": Path("/b")}
