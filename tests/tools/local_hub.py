"""The few endpoints of the hub that an upload asks, on localhost: who somebody is, a repository, a commit."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANNA: dict[str, Any] = {
    "type": "user",
    "name": "anna",
    "orgs": [{"name": "lab", "roleInOrg": "write"}, {"name": "zoo", "roleInOrg": "read"}],
    "auth": {"accessToken": {"role": "write"}},
}
ONLY_IN_LAB = {"entity": {"type": "org", "name": "lab"}, "permissions": ["repo.content.read", "repo.write"]}
TOKENS: dict[str, dict[str, Any]] = {
    "hf_write": ANNA,
    "hf_read": ANNA | {"auth": {"accessToken": {"role": "read"}}},
    "hf_fine": ANNA
    | {"auth": {"accessToken": {"role": "fineGrained", "fineGrained": {"scoped": [ONLY_IN_LAB]}}}},
}


class LocalHub:
    """What lies there: repositories, each with `private`, `files` and the card's `license`."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.refuses_creation = False
        self.address = ""

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of a request."""
        self.asked.append(f"{method} {path}")
        parts = path.removeprefix("/api/").split("/")
        if path == "/api/whoami-v2":
            return (
                (200, TOKENS[token]) if token in TOKENS else (401, {"error": "Invalid username or password."})
            )
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        name = "/".join(parts[1:3])
        if name not in self.repos:
            return 404, {"error": "Repository not found"}
        if parts[3:4] == ["settings"]:
            self.repos[name]["private"] = _private(json.loads(body))
            return 200, {}
        if parts[3:4] == ["preupload"]:
            files = json.loads(body)["files"]
            return 200, {
                "files": [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files
                ]
            }
        if parts[3:4] == ["commit"]:
            return self._commit(name, [json.loads(line) for line in body.splitlines()])
        card = {"license": self.repos[name].get("license")}
        return 200, {"id": name, "private": self.repos[name]["private"], "cardData": card, "siblings": []}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if self.refuses_creation:
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        name = f"{asked.get('organization') or 'anna'}/{asked['name']}"
        if name in self.repos:
            return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
        self.repos[name] = {"private": _private(asked), "files": {}}
        return 200, {"url": f"{self.address}/{name}"}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        for line in lines:
            if line["key"] == "file":
                self.repos[name]["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {
            "success": True,
            "commitOid": "0" * 40,
            "commitUrl": f"{self.address}/{name}/commit/{'0' * 40}",
        }


def _private(asked: dict[str, Any]) -> bool:
    return bool(asked.get("private")) or asked.get("visibility") == "private"


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """Serve a hub; its address is what HF_ENDPOINT takes."""
    hub = LocalHub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _serve(self) -> None:
            body = self._body()
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, answer = hub.answer(self.command, self.path.partition("?")[0], token, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _serve  # noqa: N815  (the names that http.server asks for)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

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
