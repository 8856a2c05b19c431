"""A stand-in for the Hugging Face hub on loopback: repositories are made, take commits of small files, and are read."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 40
API = re.compile(r"/api/(?:models|datasets)/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>[\w-]+)(?:/[^/]+(?P<path>/.*)?)?)?")
FILE = re.compile(r"/(?:datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/[^/]+/(?P<path>.+)")


@contextmanager
def loopback_hub() -> Iterator[tuple[str, dict[str, Any]]]:
    """Give its address, and what it has seen: ``made`` (the last repository), ``repos`` and the last one's ``files``.

    Files are as they were sent, in base64.
    """
    seen: dict[str, Any] = {"files": {}, "repos": {}}

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **headers,
            }.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def say(self, value: Any, status: int = 200, **headers: str) -> None:
            self.answer(json.dumps(value).encode(), status, **headers)

        def refuse(self, code: str) -> None:
            self.say({"error": code}, 404, X_Error_Code=code)

        def held(self, repo: str) -> dict[str, bytes]:
            return {name: base64.b64decode(content) for name, content in seen["repos"].get(repo, {}).items()}

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if found := FILE.fullmatch(path):
                self.give_file(self.held(found["repo"]), found["path"])
            elif found := API.fullmatch(path):
                files = self.held(found["repo"])
                if found["what"] == "tree":
                    self.say(listing(files, (found["path"] or "").strip("/")))
                else:
                    siblings = [{"rfilename": name} for name in files]
                    self.say({"id": found["repo"], "sha": COMMIT, "private": True, "siblings": siblings})
            else:
                self.refuse("RepoNotFound")

        do_HEAD = do_GET

        def give_file(self, files: dict[str, bytes], name: str) -> None:
            if name not in files:
                self.refuse("EntryNotFound")
                return
            content = files[name]
            start, _, end = (self.headers.get("Range") or "").removeprefix("bytes=").partition("-")
            part = content[int(start or 0) : int(end) + 1 if end else None]
            ranged = {"Content_Range": f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}"} if start else {}
            tag = hashlib.sha1(content).hexdigest()
            self.answer(part, 206 if start else 200, ETag=f'"{tag}"', X_Repo_Commit=COMMIT, **ranged)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            host = self.headers["Host"]
            found = API.fullmatch(urlsplit(self.path).path)
            if self.path.endswith("/repos/create"):
                made = seen["made"] = json.loads(body)
                seen["files"] = seen["repos"].setdefault(f"{made.get('organization') or 'me'}/{made['name']}", {})
                kind = "datasets/" if made["type"] == "dataset" else ""
                name = f"{made.get('organization') or 'me'}/{made['name']}"
                self.say({"url": f"http://{host}/{kind}{name}", "name": name})
            elif self.path.endswith("/validate-yaml"):
                self.say({"errors": [], "warnings": []})
            elif found and found["what"] == "preupload":
                named = json.loads(body)["files"]
                self.say(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in named]}
                )
            elif found and found["what"] == "paths-info":
                wanted = json.loads(body)["paths"] if body.startswith(b"{") else []
                self.say([row for row in listing(self.held(found["repo"]), "") if row["path"] in wanted])
            elif found and found["what"] == "commit":
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        seen["repos"].setdefault(found["repo"], seen["files"])[entry["value"]["path"]] = entry["value"][
                            "content"
                        ]
                address = f"http://{host}/{found['repo']}/commit/{COMMIT}"
                self.say({"commitUrl": address, "commitOid": COMMIT, "success": True})
            else:
                self.refuse("RepoNotFound")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def listing(files: dict[str, bytes], under: str) -> list[dict[str, Any]]:
    """Return the files and folders below a folder of a repository, as the hub lists them."""
    inside = {name: content for name, content in files.items() if not under or name.startswith(f"{under}/")}
    folders = {name.rpartition("/")[0] for name in inside} - {"", under}
    rows = [
        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for name, content in sorted(inside.items())
    ]
    return rows + [{"type": "directory", "path": name, "oid": COMMIT} for name in sorted(folders)]
