"""The upload side of the Hugging Face Hub over HTTP, as huggingface_hub speaks to it, kept in memory.

What it answers: repository creation and information, README validation, the preupload question (small text
files go into the commit, weights by LFS), the LFS batch with its upload and verification, commits, branches
and tags.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Repository:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: dict[str, tuple[str, str]] = field(default_factory=dict)  # id -> (branch, message)
    tags: dict[str, str] = field(default_factory=dict)


class HubStub:
    """State of the stub; `address` is what `HF_ENDPOINT` takes, `requests` every request seen."""

    def __init__(self, address: str):
        self.address = address
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.verified: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.refuse_tags = False
        self.refuse_creation = False

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        if path == "/api/repos/create":
            if self.refuse_creation:
                return 403, {"error": "this token may not create repositories"}
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.repositories:
                return 409, {"error": "exists", "url": f"{self.address}/{name}"}
            self.repositories[name] = Repository(
                asked.get("visibility") == "private" or bool(asked.get("private"))
            )
            return 200, {"url": f"{self.address}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if match := re.fullmatch(r"/objects/(\w+)", path):
            self.objects[match[1]] = body
            return 200, {}
        if path == "/verify":
            asked = json.loads(body)
            held = self.objects.get(asked["oid"], b"")
            if hashlib.sha256(held).hexdigest() != asked["oid"] or len(held) != asked["size"]:
                return 422, {"error": "the bytes are not those of the oid"}
            self.verified.add(asked["oid"])
            return 200, {}
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return 200, {
                "transfer": "basic",
                "objects": [self.ticket(o) for o in json.loads(body)["objects"]],
            }
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)/(.+))?", path):
            if match[1] not in self.repositories:
                return 404, {"error": "Repository not found"}
            return self.handle_repository(self.repositories[match[1]], match[1], match[2], match[3], body)
        return 501, {"error": f"the stub knows no {method} {path}"}

    def ticket(self, asked: dict) -> dict:
        actions = {
            "upload": {"href": f"{self.address}/objects/{asked['oid']}"},
            "verify": {"href": f"{self.address}/verify"},
        }
        return asked | {"actions": actions}

    def handle_repository(
        self, repository: Repository, name: str, verb: str | None, reference: str, body: bytes
    ) -> tuple[int, object]:
        if verb is None or verb == "revision":
            return 200, {
                "id": name,
                "private": repository.private,
                "sha": "0" * 40,
                "siblings": [],
                "tags": [],
            }
        if verb == "preupload":
            mode = {True: "lfs", False: "regular"}
            files = [
                {
                    "path": f["path"],
                    "uploadMode": mode[f["path"].endswith(".safetensors")],
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if verb == "branch":
            if reference in repository.branches:
                return 409, {"error": "exists"}
            repository.branches[reference] = dict(repository.branches["main"])
            return 200, {}
        if verb == "tag":
            if self.refuse_tags:
                return 403, {"error": "no tags today"}
            repository.tags[json.loads(body)["tag"]] = reference
            return 200, {}
        if verb == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            message = ""
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    message = value["summary"]
                elif line["key"] == "file":
                    repository.branches[reference][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    if value["oid"] not in self.verified:
                        return 400, {"error": f"{value['path']} was never uploaded"}
                    repository.branches[reference][value["path"]] = self.objects[value["oid"]]
            oid = hashlib.sha1(body).hexdigest()
            repository.commits[oid] = (reference, message)
            return 200, {"commitOid": oid, "commitUrl": f"{self.address}/{name}/commit/{oid}"}
        return 501, {"error": f"the stub knows no {verb}"}


@contextmanager
def hub_stub() -> Iterator[HubStub]:
    """A stub that listens on a free port of this machine for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.read_body()
            path = self.path.split("?")[0]
            stub.requests.append((self.command, path))
            if path.startswith(("/api/models/", "/api/repos/")):
                stub.tokens.add(self.headers.get("Authorization"))
            with lock:
                status, content = stub.handle(self.command, path, body)
            payload = json.dumps(content).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *arguments: object) -> None:
            pass

    lock = threading.Lock()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub = HubStub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
