"""The files that start clusters: each fits the schema of its kind, and none disagrees with the lock or the project."""

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema
import pytest
import ray.autoscaler
import yaml
from pydantic import BaseModel, ConfigDict, Field

REPO = Path(__file__).resolve().parents[2]
CLUSTER = REPO / "cluster"
LOCK = dict(
    line.split("==") for line in (REPO / "requirements.lock").read_text().splitlines() if re.match(r"[\w.-]+==", line)
)
VERSION = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["version"]
FILES = [*sorted(path for path in CLUSTER.rglob("*") if path.is_file()), REPO / "Dockerfile"]


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


class Strict(BaseModel):
    """Only the fields of the Kubernetes and Compose schemas that we use: a misspelt one is an error."""

    model_config = ConfigDict(extra="forbid")


class Port(Strict):
    containerPort: Annotated[int, Field(gt=0, lt=65536)]
    name: Literal["gcs-server", "dashboard", "client"]


class Resources(Strict):
    limits: dict[str, str]
    requests: dict[str, str]


class Mount(Strict):
    mountPath: str
    name: str


class Container(Strict):
    name: str
    image: str
    ports: list[Port] = []
    resources: Resources
    volumeMounts: list[Mount]


class Claim(Strict):
    claimName: str


class Volume(Strict):
    name: str
    persistentVolumeClaim: Claim


class SecurityContext(Strict):
    runAsNonRoot: Literal[True]
    runAsUser: Annotated[int, Field(ge=1000)]
    fsGroup: int


class PodSpec(Strict):
    securityContext: SecurityContext
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume]


class Template(Strict):
    spec: PodSpec


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: Template


class WorkerGroup(HeadGroup):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int


class AuthOptions(Strict):
    mode: Literal["token"]


class ClusterSpec(Strict):
    rayVersion: str
    authOptions: AuthOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class Name(Strict):
    name: str


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Name
    spec: ClusterSpec


class JobSpec(Strict):
    entrypoint: str
    backoffLimit: int
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int
    rayClusterSpec: ClusterSpec


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Name
    spec: JobSpec


class VolumeClaimSpec(Strict):
    accessModes: tuple[Literal["ReadWriteMany"]]
    storageClassName: str
    resources: dict[Literal["requests"], dict[Literal["storage"], str]]


class VolumeClaim(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["PersistentVolumeClaim"]
    metadata: Name
    spec: VolumeClaimSpec


class HealthCheck(Strict):
    test: list[str]
    interval: str
    timeout: str
    retries: int


class Condition(Strict):
    condition: Literal["service_healthy"]


class Deploy(Strict):
    replicas: int


class Service(Strict):
    image: str
    restart: str
    shm_size: str
    environment: dict[str, str]
    volumes: list[str]
    command: str
    ports: list[str] = []
    healthcheck: HealthCheck | None = None
    depends_on: dict[str, Condition] = {}
    deploy: Deploy | None = None


class Compose(BaseModel):
    """Keys beginning with ``x-`` are free in Compose."""

    name: str
    services: dict[str, Service]
    volumes: dict[str, None]


@pytest.mark.parametrize("path", sorted((CLUSTER / "launcher").iterdir()), ids=lambda path: path.name)
def test_launcher_files_fit_rays_schema_and_its_own_preparation(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config

    config = _load(path)
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    jsonschema.validate(config, json.loads(schema.read_text()))
    prepared = prepare_config(config)
    assert all(
        command.startswith(("ray stop", "RAY_AUTH_MODE=token RAY_worker_niceness=0 ray start"))
        for command in _starts(prepared)
    )
    assert prepared["file_mounts"]["/home/ray/.ray/auth_token"]


def _starts(config: dict[str, Any]) -> list[str]:
    return [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]


@pytest.mark.parametrize(
    ("name", "model"), [("raycluster.yaml", RayCluster), ("rayjob.yaml", RayJob), ("volume.yaml", VolumeClaim)]
)
def test_kubernetes_files_hold_only_known_fields(name: str, model: type[BaseModel]) -> None:
    model.model_validate(_load(CLUSTER / "kuberay" / name))


def test_pods_mount_the_volume_that_is_claimed() -> None:
    cluster = RayCluster.model_validate(_load(CLUSTER / "kuberay" / "raycluster.yaml")).spec
    job = RayJob.model_validate(_load(CLUSTER / "kuberay" / "rayjob.yaml")).spec.rayClusterSpec
    claim = VolumeClaim.model_validate(_load(CLUSTER / "kuberay" / "volume.yaml")).metadata.name
    for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs, job.headGroupSpec, *job.workerGroupSpecs):
        spec = group.template.spec
        assert {volume.persistentVolumeClaim.claimName for volume in spec.volumes} == {claim}
        assert {mount.name for item in spec.containers for mount in item.volumeMounts} == {v.name for v in spec.volumes}


def test_compose_has_a_head_and_two_workers_that_share_a_volume_and_a_token() -> None:
    compose = Compose.model_validate(_load(CLUSTER / "compose" / "compose.yaml"))
    head, worker = compose.services["head"], compose.services["worker"]
    assert worker.deploy is not None
    assert worker.deploy.replicas == 2
    assert head.volumes == worker.volumes == [f"{next(iter(compose.volumes))}:/artifacts"]
    assert all(service.environment["RAY_AUTH_MODE"] == "token" for service in (head, worker))
    # Without a token the file is refused, and the dashboard is open to this machine only.
    assert all(service.environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?") for service in (head, worker))
    assert head.ports == ["127.0.0.1:8265:8265"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPO)))
def test_versions_are_those_of_the_lock(path: Path) -> None:
    text = path.read_text()
    for found in re.findall(r"rayproject/ray:(\d[\d.]*)|RAY_VERSION=(\d[\d.]*)|rayVersion: \"([\d.]+)\"", text):
        assert "".join(found) == LOCK["ray"]
    for ours, rays in re.findall(r"\brayllm:([\d.]+)-ray([\d.]+)-", text):
        assert (ours, rays) == (VERSION, LOCK["ray"])
    images = re.findall(r"^\s*(?:head_|worker_)?image: (\S+)$", text, re.MULTILINE)
    assert all(re.search(r":\d", image) for image in images), "an image without a version"


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)", (REPO / "Dockerfile").read_text(), re.MULTILINE)
    assert users[-1] == "ray"


def test_all_that_the_image_copies_is_let_through_by_dockerignore() -> None:
    copied = re.findall(r"^COPY --chown=\S+ (.+) \S+$", (REPO / "Dockerfile").read_text(), re.MULTILINE)
    allowed = {line[1:] for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {name for line in copied for name in line.split()} == allowed
    assert all((REPO / name).exists() for name in allowed)


def test_the_lock_pins_every_package_and_names_no_index() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        lines = [line for line in (REPO / name).read_text().splitlines() if line and not line.startswith(("#", "-r "))]
        assert all(re.fullmatch(r"[a-z0-9-]+==[\w.!]+", line) for line in lines), name
    assert LOCK["torch"] == "2.13.0"
    required = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[\[<>=]", item)[0].lower() for item in required} <= set(LOCK)
