"""A Hugging Face hub on this machine: the addresses that downloads and uploads of small
repositories ask, with faults on request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.conftest import ROOT

LARGE = (".safetensors", ".pth")
"""Files that the hub keeps under their SHA-256; the others have Git's hash."""


@dataclass
class FakeHub:
    """What is served, and what was asked.

    Attributes:
        files: content by (kind, repository, file).
        announced: other content, by file, whose hash is told instead of the file's own.
        cuts: by file, how often its download ends after the first half.
        resumable: whether a part of a file can be asked.
    """

    files: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    announced: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    resumable: bool = True
    made: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    address: str = ""

    def add(self, repository: str, folder: Path, kind: str = "model") -> None:
        """Serve the files of a folder."""
        for path in (p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            self.files[kind, repository, name] = path.read_bytes()

    def of(self, kind: str, repository: str) -> dict[str, bytes]:
        """The files of a repository."""
        return {n: data for (k, r, n), data in self.files.items() if (k, r) == (kind, repository)}

    def commit(self, kind: str, repository: str) -> str:
        """A commit that changes with the files."""
        names = sorted(self.of(kind, repository))
        return hashlib.sha1(repr((kind, repository, names)).encode()).hexdigest()

    def hash_of(self, name: str, content: bytes) -> str:
        """What is told as a file's hash."""
        content = self.announced.get(name, content)
        if name.endswith(LARGE):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()

    def environment(self, cache: Path, **others: str) -> dict[str, str]:
        """Environment of a process that uses this hub and a cache of its own."""
        own = {"HF_ENDPOINT": self.address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
        own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_TOKEN": ""}
        return {**os.environ, "PYTHONPATH": str(ROOT), **own, **others}

    def run(self, code: str, cache: Path, **others: str) -> subprocess.CompletedProcess[str]:
        """Run Python code in a process that uses this hub."""
        command = [sys.executable, "-c", code]
        options = {"capture_output": True, "text": True, "cwd": cache.parent, "timeout": 300}
        return subprocess.run(command, env=self.environment(cache, **others), **options)


@contextmanager
def serve() -> Iterator[FakeHub]:
    """A hub that answers until the block ends."""
    hub = FakeHub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:  # noqa: N802
        """Answer without content."""
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        """Answer what a repository is, what is in it, and its files."""
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/(\w+)s/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            self._describe(*match.groups())
        elif match := re.fullmatch(r"/(?:(\w+)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1] or "model", match[2], match[4])
        else:
            self._refuse("EntryNotFound")

    def do_POST(self) -> None:  # noqa: N802
        """Take uploads."""
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        if "Bearer hf_right" not in self.headers.get("authorization", ""):
            self._refuse("Unauthorized", 401)
        elif path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told['organization']}/{told['name']}"
            self.served.made.add(name)
            self._json({"url": f"{self.served.address}/{name}", "id": name, "name": name})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._json({"files": [{"path": file["path"], **modes} for file in files]})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            self._take(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._refuse("EntryNotFound")

    def _take(self, repository: str, lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                self.served.files["model", repository, value["path"]] = content
            elif line["key"] == "deletedFile":
                del self.served.files["model", repository, value["path"]]
            else:
                self.served.messages.append(value["summary"])
        commit = self.served.commit("model", repository)
        address = f"{self.served.address}/{repository}/commit/{commit}"
        self._json({"commitOid": commit, "commitUrl": address, "hookOutput": "", "success": True})

    def _describe(self, kind: str, repository: str, what: str | None, _: str | None) -> None:
        files = self.served.of(kind, repository)
        if not files and repository not in self.served.made:
            self._refuse("RepoNotFound")
        elif what == "tree":
            self._json([self._entry(name, content) for name, content in sorted(files.items())])
        else:
            siblings = [{"rfilename": name} for name in sorted(files)]
            commit = self.served.commit(kind, repository)
            self._json({"id": repository, "sha": commit, "siblings": siblings, "tags": []})

    def _entry(self, name: str, content: bytes) -> dict:
        told = self.served.hash_of(name, content)
        entry = {"type": "file", "path": name, "size": len(content), "oid": told[:40]}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": told, "size": len(content), "pointerSize": 130}
        return entry

    def _file(self, kind: str, repository: str, name: str) -> None:
        content = self.served.files.get((kind, repository, name))
        if content is None:
            kinds = self.served.of(kind, repository)
            self._refuse("EntryNotFound" if kinds else "RepoNotFound", commit=(kind, repository))
            return
        start = 0
        if self.served.resumable and (wanted := self.headers.get("Range")):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        self.send_response(206 if start else 200)
        told = self.served.hash_of(name, content)
        self.send_header("ETag", f'"{told}"')
        if name.endswith(LARGE):
            self.send_header("X-Linked-Etag", f'"{told}"')
            self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Repo-Commit", self.served.commit(kind, repository))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.served.cuts.get(name, 0) > 0:
            self.served.cuts[name] -= 1
            self.wfile.write(content[start : start + (len(content) - start) // 2])
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(content[start:])

    def _refuse(self, code: str, status: int = 404, commit: tuple[str, str] | None = None) -> None:
        body = json.dumps({"error": code}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", self.served.commit(*commit))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body
