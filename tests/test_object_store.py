"""A run whose storage is an object store: everything of it, and a training that dies and goes on from there."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import s3fs
from own_ray import OwnRay, own_ray
from tiny_run import TRAIN, write_run

from rayllm.core import storage
from rayllm.core.artifact import Artifact, read_artifact
from rayllm.core.checkpoint import list_checkpoints, verify_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BUCKET = "runs-of-a-test"
#: Below which folder of the storage the artifacts of each stage are.
VERBS = {
    "prepare": "data",
    "fit_tokenizer": "data",
    "pack": "data",
    "train": "tiny",
    "evaluate": "tiny",
    "report": "tiny",
}


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """A bucket on an S3 server in this process; the variables that reach it, set here too."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield variables
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def ray(store: dict[str, str]) -> Iterator[OwnRay]:
    """Commands whose Ray has those variables from its start."""
    with own_ray(**store) as ray:
        yield ray


def test_a_run_lives_in_a_bucket_and_survives_a_killed_worker(ray: OwnRay, tmp_path: Path) -> None:
    # The worker dies at step 11: the checkpoint of step 8 has to be there by then, not in the making.
    file = write_run(tmp_path, f"s3://{BUCKET}/runs", checkpoint={"every_steps": 4, "asynchronous": False})
    done = ray.run("run", str(file), RAYLLM_ALLOW_FAULTS="1", RAYLLM_FAULT="step:11@1=kill")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    report = re.search(r"^report: (\S+)$", done.stdout, re.MULTILINE)
    assert report is not None
    assert b"<html" in storage.read_bytes(report[1])

    for verb in VERBS:
        _artifact(verb).verify(deep=True)
    train = _artifact("train")
    assert train.counts["attempts"] == 2
    assert train.counts["steps"] == TRAIN["max_steps"]
    checkpoints = list_checkpoints(train.uri + "/checkpoints")
    assert [(ref.step, ref.attempt) for ref in checkpoints] == [(8, 1), (12, 2)]
    for checkpoint in checkpoints:
        verify_checkpoint(checkpoint.uri, deep=True)
    assert f"resumed from {checkpoints[0].uri} at step 8" in [line["message"] for line in _records(train, "event")]
    assert {line["step"] for line in _records(train, "train")} == set(range(1, TRAIN["max_steps"] + 1))

    before = _objects()
    again = ray.run("run", str(file))
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("there already") == 6
    assert done.stdout.endswith(again.stdout)  # Before it, Ray itself has told of the worker that died.
    assert _objects() == before


def _artifact(verb: str) -> Artifact:
    root = f"s3://{BUCKET}/runs/{VERBS[verb]}"
    (name,) = {path.partition("/")[0] for path in storage.list_files(root) if path.startswith(f"{verb}-")}
    return read_artifact(storage.join(root, name))


def _records(train: Artifact, kind: str) -> list[dict[str, Any]]:
    lines = storage.read_text(train.file("metrics.jsonl")).splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def _objects() -> dict[str, str]:
    """Every object of the bucket, with the time when it was written."""
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {item["Key"]: item["LastModified"].isoformat() for page in pages for item in page.get("Contents", [])}
