"""A model hub in memory: the HTTP interface by which huggingface_hub creates, commits to and downloads repositories.

Large files use git LFS: a batch request returns their address for the upload. Downloads are redirected to a host of
another name, like the hub's storage, which refuses requests that still have the hub's token.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_writes0123456789"
READ_TOKEN = "hf_reads0123456789"
USER = "ada"
LFS_BYTES = 10 * 2**20
GIT_ATTRIBUTES = b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, size: int) -> bool:
    return path.endswith(".onnx") or size > LFS_BYTES


@dataclass
class Commit:
    sha: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def add(self, branch: str, message: str, files: dict[str, bytes]) -> Commit:
        seed = (
            f"{len(self.commits)} {message} {sorted((name, git_oid(each)) for name, each in files.items())}"
        )
        made = Commit(hashlib.sha1(seed.encode()).hexdigest(), message, files)
        self.commits[made.sha] = made
        self.branches[branch] = made.sha
        return made

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision, revision))

    def history(self) -> list[str]:
        return [each.message for each in self.commits.values()]


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Hub:
    """State of the server; tests inspect it and set ``faults``: part of a path → status, or content to serve."""

    def __init__(self, endpoint: str = "") -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, int | bytes] = {}
        self.requests: list[str] = []
        self.endpoint = endpoint

    def make(self, name: str, files: dict[str, bytes] | None = None, *, private: bool = False) -> Repo:
        repo = self.repos[name] = Repo(private)
        repo.add("main", "initial commit", {".gitattributes": GIT_ATTRIBUTES, **(files or {})})
        return repo

    def seen(self, part: str) -> int:
        return sum(part in request for request in self.requests)


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = self._chunks()
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        try:
            for part, fault in self.hub.faults.items():
                if part in f"{self.command} {path}":
                    if isinstance(fault, int):
                        raise Refused(fault, f"asked to fail for {self.headers.get('Authorization')}")
                    self._send(200, fault)
                    return
            self._route(path)
        except Refused as refused:
            headers = {"X-Error-Message": refused.message}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            self._json({"error": refused.message}, refused.status, headers)

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _route(self, path: str) -> None:
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            self._create()
        elif path == "/api/validate-yaml":
            self._validate_card()
        elif parts[0] == "storage":
            self._storage(parts[1])
        elif parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._of_model("/".join(parts[2:4]), parts[4] if len(parts) > 4 else "", "/".join(parts[5:]))
        elif parts[-4:] == ["info", "lfs", "objects", "batch"]:
            self._batch("/".join(parts[:2]).removesuffix(".git"))
        elif len(parts) == 5 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], parts[4])
        else:
            raise Refused(404, "no such page")

    # Authorization

    def _user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (TOKEN, READ_TOKEN):
            raise Refused(401, "Invalid credentials in Authorization header")
        return USER if token else None

    def _may_write(self, name: str) -> None:
        if self._user() is None:
            raise Refused(401, "Invalid username or password.")
        if READ_TOKEN in self.headers["Authorization"] or name.split("/")[0] != USER:
            raise Refused(403, f"You don't have the rights to write to {name}")

    def _repo(self, name: str) -> Repo:
        user, repo = self._user(), self.hub.repos.get(name)
        if repo is None or (repo.private and user != name.split("/")[0]):
            raise Refused(
                401 if user is None else 404,
                "Repository not found" if user else "Invalid username or password.",
                "RepoNotFound",
            )
        return repo

    def _commit(self, name: str, revision: str) -> Commit:
        found = self._repo(name).at(revision)
        if found is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    # Repositories

    def _create(self) -> None:
        given = json.loads(self.body)
        name = f"{given['organization'] or USER}/{given['name']}"
        self._may_write(name)
        if name in self.hub.repos:
            raise Refused(409, "You already created this model repo")
        self.hub.make(name, private=given.get("visibility") == "private" or bool(given.get("private")))
        self._json({"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name})

    def _validate_card(self) -> None:
        content = json.loads(self.body)["content"]
        if "license: not a licence" in content:
            self._json({"errors": [{"message": '"license" must be one of [...]'}], "warnings": []}, 400)
        else:
            self._json({"errors": [], "warnings": []})

    def _of_model(self, name: str, what: str, rest: str) -> None:
        if what in ("", "revision"):
            self._info(name, rest or "main")
        elif what == "paths-info":
            files = self._commit(name, rest).files
            wanted = parse_qs(self.body.decode())["paths"]
            self._json([self._entry(each, files[each]) for each in wanted if each in files])
        elif what == "branch":
            self._may_write(name)
            repo = self._repo(name)
            if rest in repo.branches:
                raise Refused(409, "Reference already exists")
            repo.branches[rest] = repo.branches["main"]
            self._json({})
        elif what == "preupload":
            self._may_write(name)
            self._preupload(self._commit(name, rest).files)
        elif what == "commit":
            self._may_write(name)
            self._add_commit(name, rest)
        else:
            raise Refused(404, f"not supported here: {what}")

    def _info(self, name: str, revision: str) -> None:
        repo, commit = self._repo(name), self._commit(name, revision)
        siblings = [{"rfilename": each} for each in sorted(commit.files)]
        self._json(
            {"id": name, "modelId": name, "private": repo.private, "sha": commit.sha, "siblings": siblings}
        )

    @staticmethod
    def _entry(path: str, content: bytes) -> dict:
        made = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if is_large(path, len(content)):
            oid = hashlib.sha256(content).hexdigest()
            made["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
        return made

    # Commits

    def _preupload(self, files: dict[str, bytes]) -> None:
        answers = []
        for each in json.loads(self.body)["files"]:
            path, large = each["path"], is_large(each["path"], each["size"])
            there = files.get(path)
            oid = None if there is None else self._oid(there, large)
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    @staticmethod
    def _oid(content: bytes, large: bool) -> str:
        return hashlib.sha256(content).hexdigest() if large else git_oid(content)

    def _batch(self, name: str) -> None:
        self._may_write(name)
        objects = []
        for each in json.loads(self.body)["objects"]:
            answer = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.endpoint}/storage/{each['oid']}"}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects}, media="application/vnd.git-lfs+json")

    def _storage(self, oid: str) -> None:
        if self.headers.get("Authorization"):
            raise Refused(400, "Only one auth mechanism allowed")
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise Refused(400, "The content does not have this SHA-256")
            self.hub.objects[oid] = self.body
            self._send(200, b"")
        else:
            self._send(200, self.hub.objects[oid])

    def _add_commit(self, name: str, branch: str) -> None:
        repo, before = self._repo(name), self._commit(name, branch)
        files, message = dict(before.files), ""
        for line in self.body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, before.sha):
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                del files[value["path"]]
        made = repo.add(branch, message, files)
        self._json({"commitUrl": f"{self.hub.endpoint}/{name}/commit/{made.sha}", "commitOid": made.sha})

    # Downloads

    def _resolve(self, name: str, revision: str, path: str) -> None:
        commit = self._commit(name, revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        content = commit.files[path]
        if not is_large(path, len(content)):
            self._send(200, content, {**headers, "ETag": f'"{git_oid(content)}"'})
            return
        oid = hashlib.sha256(content).hexdigest()
        self.hub.objects.setdefault(oid, content)
        location = f"http://localhost:{self.server.server_port}/storage/{oid}"  # pyright: ignore[reportAttributeAccessIssue]
        headers |= {"Location": location, "X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{oid}"'}
        self._send(302, b"", headers)

    def _json(
        self, value: object, status: int = 200, headers: dict | None = None, media: str = "application/json"
    ) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": media, **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
