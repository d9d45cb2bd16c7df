"""Stand-ins for where data sets come from: a web server, the Hugging Face Hub, Google Cloud Storage, an S3 store.

Each serves a mapping of paths to bytes from a thread of this process, and speaks as much of its protocol as the clients
of ``fsspec`` use for listing and reading.
"""

import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


@dataclass
class Server:
    """A server under way.

    Attributes:
        files: What it serves.
        ranges: Whether it sends parts of files when asked.
        sizes: Whether it tells how large files are.
        failures: How many of the next requests for contents end in the middle, or, where negative, are refused (503).
        requests: Method and path of what was asked so far.
        url: Where it is.
    """

    files: Mapping[str, bytes]
    ranges: bool = True
    sizes: bool = True
    failures: int = 0
    requests: list[str] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    """Files at their paths, and an index page for each directory."""

    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.state.requests.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        if path.lstrip("/") in self.state.files:
            self.send_file(self.state.files[path.lstrip("/")])
        else:
            names = [name for name in self.state.files if name.startswith(path.lstrip("/").rstrip("/") + "/")]
            links = "".join(f'<a href="/{name}">{name}</a>' for name in names)
            self.send_body(200 if names else 404, links.encode() or b"nothing here", "text/html")

    def send_json(self, value: object, status: int = 200) -> None:
        self.send_body(status, json.dumps(value).encode(), "application/json")

    def send_body(self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.state.sizes:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, data: bytes) -> None:
        headers = {"ETag": f'"{sha1(data).hexdigest()}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status = 200
        if wanted and self.state.ranges:
            start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            headers |= {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
            data, status = data[start : end + 1], 206
        if self.state.failures and self.command == "GET" and len(data) > 1:
            self._fail(data)
            return
        self.send_body(status, data, "application/octet-stream", headers)

    def _fail(self, data: bytes) -> None:
        self.close_connection = True
        if self.state.failures < 0:
            self.state.failures += 1
            self.send_error(503)
            return
        self.state.failures -= 1
        self.send_response(200 if "Range" not in self.headers else 206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])


class _Hub(_Handler):
    """The routes of the Hub that ``HfFileSystem`` calls; files are named ``datasets/<org>/<name>/<path>``."""

    def _answer(self) -> None:
        self.state.requests.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        if tree := re.fullmatch(r"/api/(datasets/[^/]+/[^/]+)/tree/main/?(.*)", path):
            self.send_json(self._tree(tree[1], tree[2], recursive="recursive=true" in self.path.lower()))
        elif about := re.fullmatch(r"/api/(datasets/([^/]+/[^/]+))(/revision/main)?", path):
            known = any(name.startswith(about[1] + "/") for name in self.state.files)
            self.send_json({"id": about[2], "sha": "0" * 40} if known else {"error": "no"}, 200 if known else 404)
        elif resolved := re.fullmatch(r"/(datasets/[^/]+/[^/]+)/resolve/main/(.+)", path):
            self.send_file(self.state.files[f"{resolved[1]}/{resolved[2]}"])
        else:
            self.send_json({"error": "no such route"}, 404)

    def _tree(self, repository: str, folder: str, *, recursive: bool) -> list[dict[str, object]]:
        prefix = f"{repository}/{folder}".rstrip("/") + "/"
        below = {
            name[len(repository) + 1 :]: data for name, data in self.state.files.items() if name.startswith(prefix)
        }
        depth = len(prefix) - len(repository) - 1
        entries: dict[str, dict[str, object]] = {}
        for name, data in below.items():
            parts = name[depth:].split("/")
            for count in range(1, len(parts)):
                directory = name[:depth] + "/".join(parts[:count])
                if recursive or count == 1:
                    entries[directory] = {
                        "type": "directory",
                        "path": directory,
                        "oid": sha1(directory.encode()).hexdigest(),
                    }
            if recursive or len(parts) == 1:
                entries[name] = {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
        return list(entries.values())


class _CloudStorage(_Handler):
    """Listing and reading of objects; files are named ``<bucket>/<object>``."""

    def _answer(self) -> None:
        self.state.requests.append(f"{self.command} {self.path}")
        parts = urlsplit(self.path)
        listing = re.fullmatch(r"/storage/v1/b/([^/]+)/o/?", parts.path)
        one = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)", parts.path)
        query = parse_qs(parts.query)
        if listing:
            self.send_json(self._list(listing[1], query.get("prefix", [""])[0], query.get("delimiter", [""])[0]))
        elif one and (name := f"{one[1]}/{unquote(one[2])}") in self.state.files:
            if query.get("alt") == ["media"]:
                self.send_file(self.state.files[name])
            else:
                self.send_json(self._about(name))
        else:
            self.send_json({"error": {"code": 404, "message": "no such object"}}, 404)

    def _list(self, bucket: str, prefix: str, delimiter: str) -> dict[str, object]:
        names = [name for name in self.state.files if name.startswith(f"{bucket}/{prefix}")]
        rests = {name: name[len(bucket) + 1 + len(prefix) :] for name in names}
        folders = {prefix + rest.split("/")[0] + "/" for rest in rests.values() if delimiter and "/" in rest}
        items = [self._about(name) for name, rest in rests.items() if not (delimiter and "/" in rest)]
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def _about(self, name: str) -> dict[str, object]:
        bucket, _, key = name.partition("/")
        data = self.state.files[name]
        return {
            "kind": "storage#object",
            "name": key,
            "bucket": bucket,
            "size": str(len(data)),
            "etag": sha1(data).hexdigest(),
            "generation": "1",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }


@contextmanager
def _serving(state: Server, handler: type[_Handler]) -> Iterator[Server]:
    bound = type(handler.__name__, (handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def web_server(files: Mapping[str, bytes]) -> AbstractContextManager[Server]:
    """Files over HTTP."""
    return _serving(Server(files), _Handler)


def hub_server(files: Mapping[str, bytes]) -> AbstractContextManager[Server]:
    """Data sets as the Hugging Face Hub serves them, for HF_ENDPOINT."""
    return _serving(Server(files), _Hub)


def cloud_storage_server(files: Mapping[str, bytes]) -> AbstractContextManager[Server]:
    """Buckets as Google Cloud Storage serves them, for STORAGE_EMULATOR_HOST."""
    return _serving(Server(files), _CloudStorage)


@contextmanager
def s3_store(name: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """A bucket with some objects on an S3 server in this process; its URI, the variables that reach it set."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        client = boto3.client("s3")
        client.create_bucket(Bucket=name)
        for key, data in files.items():
            client.put_object(Bucket=name, Key=key, Body=data)
        yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
