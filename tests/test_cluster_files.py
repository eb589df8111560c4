"""Files that describe clusters: checked against Ray's own schema, and against our pins."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
KUBERAY = sorted((ROOT / "cluster" / "kuberay").glob("*.yaml"))


def pinned(name: str) -> str:
    text = (ROOT / "constraints.txt").read_text("utf-8")
    return re.search(rf"^{name}==(.+)$", text, re.M)[1]


@pytest.fixture(scope="module")
def config() -> dict:
    return yaml.safe_load((ROOT / "ray_config.yaml").read_text("utf-8"))


def test_the_cluster_file_fits_rays_schema(config: dict) -> None:
    ray = pytest.importorskip("ray")
    import jsonschema

    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(config, schema)


def test_the_autoscaler_takes_the_cluster_file(config: dict) -> None:
    pytest.importorskip("ray")
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    validate_config(fillout_defaults(config))


def test_the_head_takes_no_work_and_gpus_come_from_zero(config: dict) -> None:
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    workers = [node for name, node in types.items() if name != config["head_node_type"]]
    assert all(node["min_workers"] == 0 for node in workers)
    assert all(node["node_config"]["InstanceMarketOptions"] for node in workers)


def test_tokens_are_asked_for_and_the_dashboard_is_private(config: dict) -> None:
    (head,) = (line for line in config["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in head
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)
    assert any(place.endswith("auth_token") for place in config["file_mounts"])


def test_images_have_the_pinned_ray(config: dict) -> None:
    version = pinned("ray")
    assert config["docker"]["image"].startswith(f"rayproject/ray:{version}-")
    docker = (ROOT / "cluster/kuberay/Dockerfile").read_text("utf-8")
    assert f"FROM rayproject/ray:{version}-" in docker


# What we use of the operator's CRDs, with their types (ray-project/kuberay at e4c2a23e42bd,
# ray-operator/config/crd and helm-chart/kuberay-operator/crds).
GROUP = {
    "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int,
    "rayStartParams": {"*": str}, "template": dict,
}  # fmt: skip
CLUSTER = {
    "rayVersion": str, "enableInTreeAutoscaling": bool, "authOptions": {"mode": str},
    "autoscalerOptions": {"idleTimeoutSeconds": int},
    "headGroupSpec": {"rayStartParams": {"*": str}, "template": dict},
    "workerGroupSpecs": [GROUP],
}  # fmt: skip
KINDS = {
    "RayCluster": CLUSTER,
    "RayJob": {
        "entrypoint": str, "submissionMode": str, "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int, "backoffLimit": int, "runtimeEnvYAML": str,
        "rayClusterSpec": CLUSTER,
    },
    "RayService": {
        "upgradeStrategy": {"type": str}, "serveConfigV2": str, "rayClusterConfig": CLUSTER,
    },
}  # fmt: skip


def misfits(value: Any, schema: Any, place: str) -> list[str]:
    """Where a file says what the operator does not know."""
    if isinstance(schema, list):
        pairs = [(one, schema[0], f"{place}[{i}]") for i, one in enumerate(value)]
    elif isinstance(schema, dict):
        known = {name: schema.get(name, schema.get("*")) for name in value}
        pairs = [(value[name], inner, f"{place}.{name}") for name, inner in known.items()]
    elif schema is None:
        return [f"{place} is unknown"]
    else:
        return [] if type(value) is schema else [f"{place} is no {schema.__name__}"]
    return [found for pair in pairs for found in misfits(*pair)]


def test_there_is_a_file_for_each_kind() -> None:
    kinds = {yaml.safe_load(path.read_text("utf-8"))["kind"] for path in KUBERAY}
    assert kinds == {"RayCluster", "RayJob", "RayService"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Serve's own
@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in KUBERAY])
def test_kubernetes_files_have_documented_fields_and_tokens(path: Path) -> None:
    file = yaml.safe_load(path.read_text("utf-8"))
    assert file["apiVersion"] == "ray.io/v1"
    spec = file["spec"]
    assert misfits(spec, KINDS[file["kind"]], "spec") == []
    cluster = {
        "RayCluster": lambda: spec,
        "RayJob": lambda: spec["rayClusterSpec"],
        "RayService": lambda: spec["rayClusterConfig"],
    }[file["kind"]]()
    assert cluster["rayVersion"] == pinned("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["template"]["spec"]["containers"]
    if file["kind"] == "RayService":  # Serve's own schema, not KubeRay's
        from ray.serve.schema import ServeDeploySchema

        ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))


def test_a_field_that_the_operator_does_not_know_is_found() -> None:
    spec = {"rayVersion": 2, "authOptions": {"modes": "token"}, "workerGroupSpecs": [{"a": 1}]}
    assert misfits(spec, CLUSTER, "spec") == [
        "spec.rayVersion is no str", "spec.authOptions.modes is unknown",
        "spec.workerGroupSpecs[0].a is unknown",
    ]  # fmt: skip


def test_what_a_job_reads_is_sent_with_it() -> None:
    """.gitignore and .rayignore both keep files from the cluster."""
    ignored = (ROOT / ".rayignore").read_text("utf-8").split()
    for needed in ("cllm/", "cluster/", "cllm/assets/"):
        assert needed not in ignored
    assert {"runs/", ".venv/"} <= set(ignored)
