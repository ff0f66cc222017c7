"""A Kubernetes API of one machine: it takes TrainJobs and runs their command as the runtime torch-distributed does."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import yaml


class Cluster(ThreadingHTTPServer):
    """What was posted, and the processes that stand for the pods of each TrainJob."""

    def __init__(self, folder: Path, instead: list[str] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.folder, self.instead = folder, instead
        self.posted: list[dict[str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, list[subprocess.Popen[bytes]]] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def kubeconfig(self) -> Path:
        user, server = {"name": "me", "user": {}}, {"server": f"http://127.0.0.1:{self.server_port}"}
        context = {"name": "here", "context": {"cluster": "here", "user": "me"}}
        made = {"apiVersion": "v1", "kind": "Config", "current-context": "here", "contexts": [context]}
        file = self.folder / "kubeconfig"
        file.write_text(
            yaml.safe_dump({**made, "users": [user], "clusters": [{"name": "here", "cluster": server}]})
        )
        return file

    def start(self, body: dict[str, Any]) -> None:
        name, trainer = body["metadata"]["name"], body["spec"]["trainer"]
        self.posted.append(body)
        self.jobs[name] = body
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        told = {each["name"]: each["value"] for each in trainer["env"]}
        command = [sys.executable if part == "python" else part for part in trainer["command"]]
        self.pods[name] = []
        for rank in range(trainer["numNodes"]):
            places = {
                "NNODES": trainer["numNodes"],
                "NPROC_PER_NODE": 1,
                "NODE_RANK": rank,
                "MASTER_PORT": port,
            }
            env = {key: value for key, value in os.environ.items() if key != "SPIN_TRAINJOB"} | told
            env |= {f"PET_{key}": str(value) for key, value in places.items()} | {
                "PET_MASTER_ADDR": "127.0.0.1"
            }
            with (self.folder / f"{name}-{rank}.log").open("wb") as log:
                pod = subprocess.Popen(self.instead or command, env=env, stdout=log, stderr=log)
            self.pods[name].append(pod)

    def status(self, name: str) -> dict[str, Any]:
        codes = [pod.poll() for pod in self.pods[name]]
        kind = "Failed" if any(codes) else "Complete" if all(code == 0 for code in codes) else None
        return {"conditions": [{"type": kind, "status": "True", "message": str(codes)}] if kind else []}

    def remove(self, name: str) -> None:
        del self.jobs[name]
        for pod in self.pods[name]:
            pod.kill()
            pod.wait()


class _Api(BaseHTTPRequestHandler):
    server: Cluster
    JOBS = re.compile(
        r"/apis/trainer.kubeflow.org/v1alpha1/namespaces/research/trainjobs(?:/(?P<name>[^/]+))?"
    )
    PODS = re.compile(r"/api/v1/namespaces/research/pods(?:/(?P<pod>[^/]+)/log)?")

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, code: int, body: Any) -> None:
        text = isinstance(body, str)
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if text else "application/json")
        self.end_headers()
        self.wfile.write(body.encode() if text else json.dumps(body).encode())

    def do_POST(self) -> None:
        assert self.JOBS.fullmatch(urlparse(self.path).path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.start(body)
        self.answer(201, body)

    def do_GET(self) -> None:
        where = urlparse(self.path)
        asked = {key: values[0] for key, values in parse_qs(where.query).items()}
        if job := self.JOBS.fullmatch(where.path):
            there = self.server.jobs.get(job["name"])
            body = {**there, "status": self.server.status(job["name"])} if there else {}
            return self.answer(200 if there else 404, body)
        pods = self.PODS.fullmatch(where.path)
        assert pods, self.path
        if pods["pod"]:
            lines = (self.server.folder / f"{pods['pod']}.log").read_text().splitlines()
            return self.answer(200, "\n".join(lines[-int(asked["tailLines"]) :]))
        name = asked["labelSelector"].removeprefix("jobset.sigs.k8s.io/jobset-name=")
        items = [self.pod(name, rank, pod) for rank, pod in enumerate(self.server.pods.get(name, []))]
        return self.answer(200, {"apiVersion": "v1", "kind": "PodList", "items": items[::-1]})

    def pod(self, name: str, rank: int, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
        code = process.poll()
        state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
        status = {
            "name": "node",
            "image": "",
            "imageID": "",
            "ready": code is None,
            "restartCount": 0,
            "state": state,
        }
        labels = {"batch.kubernetes.io/job-completion-index": str(rank)}
        return {
            "metadata": {"name": f"{name}-{rank}", "labels": labels},
            "status": {"containerStatuses": [status]},
        }

    def do_DELETE(self) -> None:
        job = self.JOBS.fullmatch(urlparse(self.path).path)
        assert job
        self.server.remove(job["name"])
        self.answer(200, {})
