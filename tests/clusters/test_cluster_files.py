"""Every file of clusters/ against what reads it: Ray's own schema, KubeRay's resource definitions, bash."""

from __future__ import annotations

import copy
import functools
import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from catsweep.sweep.launch import read_cluster_file
from catsweep.sweep.submission import HEAD

CLUSTERS = Path(__file__).parents[2] / "clusters"
KUBERAY = Path(__file__).parents[3] / "shared" / "data" / "kuberay"


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTERS / name).read_text())


def kubernetes() -> dict[tuple[str, str], Any]:
    """The documents of the KubeRay file by kind and name."""
    found = [one for one in yaml.safe_load_all((CLUSTERS / "kuberay-rayjob.yaml").read_text()) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_ray_up_accepts_the_file_and_refuses_it_with_a_typo(name: str) -> None:
    validate_config(prepare_config(load(name)))
    for broken in (load(name) | {"max_wokers": 3}, load(name)):
        broken["available_node_types"]["spot"]["resources"]["GPU"] = "one"
        with pytest.raises(jsonschema.ValidationError):
            validate_config(prepare_config(broken))


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_workers_are_spot_and_the_head_that_holds_the_drivers_is_not(name: str) -> None:
    config = load(name)
    head, spot = (config["available_node_types"][kind] for kind in (config["head_node_type"], "spot"))
    assert head["resources"] == {"CPU": 0, "GPU": 0, HEAD: 1}
    assert HEAD not in spot["resources"]
    is_spot = json.dumps(spot["node_config"]).lower()
    assert '"markettype": "spot"' in is_spot or '"provisioningmodel": "spot"' in is_spot
    assert "spot" not in json.dumps(head["node_config"]).lower()
    assert spot["min_workers"] == spot["max_workers"] <= config["max_workers"]


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_nodes_of_a_cloud_share_a_bucket_want_a_token_and_serve_on_loopback(name: str) -> None:
    config = load(name)
    head, worker = (" ".join(config[f"{kind}_start_ray_commands"]) for kind in ("head", "worker"))
    scheme = {"aws.yaml": "s3", "gcp.yaml": "gs"}[name]
    for commands in (head, worker):
        assert f"CATSWEEP_HOME={scheme}://BUCKET/catsweep" in commands
        assert "RAY_AUTH_MODE=token" in commands
    assert "--dashboard-host=127.0.0.1" in head
    assert "mlflow server --host 127.0.0.1" in head
    assert "0.0.0.0" not in head
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


def closed(schema: Any) -> Any:
    """A definition of Kubernetes as the JSON schema that it is, with unknown keys refused: the server would drop them."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items() if key != "format"}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


@functools.cache
def definition() -> Any:
    """KubeRay's definition of a RayJob; None where it is absent."""
    path = KUBERAY / "ray.io_rayjobs.yaml.gz"
    return yaml.load(gzip.decompress(path.read_bytes()), Loader=yaml.CSafeLoader) if path.is_file() else None


def problems_of(job: dict[str, Any]) -> list[str]:
    """What KubeRay's definition of a RayJob has against a document; where the definition is absent, what is wrong with the
    fields that it is known to demand."""
    if (found := definition()) is not None:
        (version,) = [one for one in found["spec"]["versions"] if job["apiVersion"] == f"ray.io/{one['name']}"]
        assert version["served"]
        spec = closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
        errors = jsonschema.Draft202012Validator(spec).iter_errors(job["spec"])
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]
    problems = [] if job["apiVersion"] == "ray.io/v1" else ["apiVersion"]
    demanded = {"spec": {"entrypoint": str, "rayClusterSpec": dict, "entrypointResources": str, "backoffLimit": int}}
    for key, kind in demanded["spec"].items():
        if not isinstance(job["spec"].get(key), kind):
            problems.append(f"{key}: not a {kind.__name__}")
    unknown = set(job["spec"]) - {*demanded["spec"], "metadata", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
    groups = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    return problems + sorted(unknown) + ["a group without pods" for group in groups if "template" not in group]


def test_kuberay_accepts_the_job_and_refuses_it_with_a_typo() -> None:
    job = kubernetes()["RayJob", "catsweep"]
    assert problems_of(job) == []
    broken = copy.deepcopy(job)
    broken["spec"]["entrypointResource"] = broken["spec"].pop("entrypointResources")
    assert problems_of(broken)
    broken = copy.deepcopy(job)
    del broken["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]
    assert problems_of(broken)


def test_names_that_documents_of_the_kuberay_file_use_are_defined_in_it() -> None:
    found = kubernetes()
    cluster = found["RayJob", "catsweep"]["spec"]["rayClusterSpec"]
    pods = {name: group["template"] for name, group in [("head", cluster["headGroupSpec"])]}
    pods |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    pods["mlflow"] = found["Deployment", "mlflow"]["spec"]["template"]
    claims = {name for kind, name in found if kind == "PersistentVolumeClaim"}
    for template in pods.values():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        named = {
            volume["persistentVolumeClaim"]["claimName"] for volume in volumes.values() if "configMap" not in volume
        }
        assert named <= claims
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
            env = {one["name"]: one["value"] for one in container["env"]}
            assert env.get("MLFLOW_TRACKING_URI", "http://mlflow:5000") == "http://mlflow:5000"
    for name, target in (("mlflow", "mlflow"), ("catsweep-head", "head")):
        selector = found["Service", name]["spec"]["selector"].items()
        assert [pod for pod, template in pods.items() if selector <= template["metadata"]["labels"].items()] == [target]
    (rule,) = found["NetworkPolicy", "mlflow"]["spec"]["ingress"]
    allowed = rule["from"][0]["podSelector"]["matchLabels"].items()
    assert [name for name, pod in pods.items() if allowed <= pod["metadata"]["labels"].items()] == ["head", "spot"]


def test_the_driver_of_the_kuberay_job_is_on_the_head() -> None:
    spec = kubernetes()["RayJob", "catsweep"]["spec"]
    assert 0 < json.loads(spec["entrypointResources"])[HEAD] < 0.01
    resources = spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["resources"]
    assert json.loads(json.loads(resources)) == {HEAD: 1}  # KubeRay hands it to a shell, in its quotes
    assert spec["rayClusterSpec"]["authOptions"]["mode"] == "token"


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "kuberay-rayjob.yaml"])
def test_plan_and_submit_read_the_nodes_of_the_file(name: str) -> None:
    nodes = read_cluster_file(str(CLUSTERS / name)).nodes
    assert [(node["CPU"], node["GPU"]) for node in nodes] == [(0, 0)] + [(8, 1)] * 4


FAKE = """\
#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$CALLS"
case "$(basename "$0") $*" in
*"show hostnames"*) printf 'n1\\nn2\\nn3\\n' ;;
*"hostname --ip-address"*) echo "10.0.0.1 fe80::1" ;;
*"list nodes"*) echo '[{"node_id": "a"}, {"node_id": "b"}, {"node_id": "c"}]' ;;
*"catsweep run"*) echo "home is $CATSWEEP_HOME"; exit "${DRIVER_CODE:-0}" ;;
*"--block"*) exec sleep 30 ;;
esac
"""


def run_slurm(folder: Path, *arguments: str, **env: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """slurm.sh with commands that only note their calls: what it printed, and the calls."""
    calls = folder / "calls"
    for name in ("srun", "scontrol", "ray"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_GPUS_ON_NODE": "4",
    }
    env = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "CATSWEEP_HOME": "/shared/results",
        **slurm,
        **env,
    }
    command = ["bash", str(CLUSTERS / "slurm.sh"), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_slurm_starts_a_head_a_worker_on_each_further_node_and_the_driver_on_the_head(tmp_path: Path) -> None:
    done, calls = run_slurm(tmp_path, "sweep.yaml", "search.num_samples=16")
    assert done.returncode == 0, done.stderr
    assert "Ray is up: 3 of 3 nodes, head n1" in done.stdout
    assert "home is /shared/results" in done.stdout
    on_head = "srun --overlap --nodes=1 --ntasks=1 --nodelist=n1"
    port = 20_000 + 123_456 % 20_000
    (head,) = [call for call in calls if "ray start --head" in call]
    assert head.startswith(
        f"{on_head} ray start --head --node-ip-address 10.0.0.1 --port {port} --dashboard-host 127.0.0.1"
    )
    assert "--num-cpus 16 --num-gpus 4" in head
    assert f'--resources {{"{HEAD}": 1}}' in head
    workers = sorted(call for call in calls if f"ray start --address 10.0.0.1:{port}" in call)
    assert [worker.split()[4] for worker in workers] == ["--nodelist=n2", "--nodelist=n3"]
    assert calls[-1] == f"{on_head} catsweep run sweep.yaml search.num_samples=16"
    assert "ray get-auth-token --generate" in calls


def test_slurm_ends_with_the_drivers_code_and_explains_itself_without_a_sweep(tmp_path: Path) -> None:
    assert run_slurm(tmp_path, "sweep.yaml", DRIVER_CODE="1")[0].returncode == 1
    done, calls = run_slurm(tmp_path / ".")
    assert done.returncode == 2
    assert "sbatch clusters/slurm.sh sweep.yaml" in done.stdout
    assert len([call for call in calls if "catsweep run" in call]) == 1, "the second call started nothing"


def test_the_tracking_servers_of_this_repository_answer_their_own_machine_only() -> None:
    folder = CLUSTERS.parent / "mlflow"
    settings = (folder / "server.env").read_text().splitlines()
    assert "MLFLOW_HOST=127.0.0.1" in settings
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:5000:5000"]


@pytest.mark.parametrize("name", ["slurm.sh", "local.sh"])
def test_scripts_are_valid_bash_and_serve_on_loopback(name: str) -> None:
    path = CLUSTERS / name
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert os.access(path, os.X_OK)
    assert "--dashboard-host 127.0.0.1" in path.read_text()
    assert "0.0.0.0" not in path.read_text()
