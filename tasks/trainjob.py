"""A stage as a TrainJob of a Kubernetes cluster (Kubeflow Trainer 2): `python -m tasks.trainjob train --name iter1`.

`SPIN_TRAINJOB` names a manifest of your own: image, machines, GPUs, queue, and the volume on which the project's folder lies,
at the same path as here. A stage that several machines can share becomes this command (`spin.runtime.launch`), whoever
started it: the task of a flow, or DVC. It puts name and command into the manifest, submits it by prefect-kubernetes, says
what the first pod says, and ends as the stage in the pods ends.
"""

import asyncio
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spin.errors import ParamsError
from tasks.manifest import COMPLETE, FAILED, KIND, Manifest, ended, filled_in, manifest_asked, work_of

SECONDS_BETWEEN_LOOKS = 5.0
PATIENCE = 600.0
"""Seconds that the cluster's API may not answer: the pods work on meanwhile."""
LINES_OF_A_FAILURE = 30
BAD_INPUT = 2


class TrainJob:
    """One TrainJob from its submission to its end."""

    def __init__(self, manifest: Manifest, arguments: Sequence[str], root: Path) -> None:
        from prefect_kubernetes.credentials import KubernetesCredentials

        self._credentials = KubernetesCredentials()  # of the pod this runs in, else of KUBECONFIG
        self._body = filled_in(manifest, arguments, root)
        self.name: str = self._body["metadata"]["name"]
        self._where = {**KIND, "namespace": self._body["metadata"]["namespace"]}

    async def run(self) -> int:
        """Submit it or find it, wait for its end, and return the exit code of the stage in its pods.

        One that was left under way for the same work is waited for, one of the stage's other work is replaced. Cancelled, or
        where the cluster refuses, it takes the TrainJob away; a kill leaves it to the next start.
        """
        code, task = 1, asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            await self._submit()
            code = await self._wait()
        finally:
            if code and self._is_ours(await self._look()):
                await self._remove()
        return code

    async def _submit(self) -> None:
        from prefect_kubernetes.custom_objects import create_namespaced_custom_object

        there = await self._look()
        if there and not ended(there) and self._is_ours(there):
            _say(f"{self.name} is under way on the cluster; waiting for it.")
            return
        if there:
            await self._remove()
        await create_namespaced_custom_object.fn(self._credentials, body=self._body, **self._where)
        _say(f"{self.name} was submitted to the cluster.")

    async def _wait(self) -> int:
        answered, said = time.monotonic(), ""
        while True:
            try:
                there, lines = await self._look(), await self._lines(1)
            except OSError as error:  # aiohttp's are
                if time.monotonic() - answered > PATIENCE:
                    _say(f"spin: the cluster has not answered for {PATIENCE:.0f} s ({error}); run it again.")
                    return 1
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
                continue
            answered = time.monotonic()
            if there is None:
                _say(f"spin: {self.name} was removed from the cluster by somebody; run it again.")
                return 1
            if not self._is_ours(there):
                _say(
                    f"spin: {self.name} is now at work with other parameters, for another start of this stage."
                )
                return 1
            how = ended(there)
            if how == FAILED:
                return await self._failed(there)
            if lines and lines[-1] != said:
                said = lines[-1]
                _say(said)
            if how == COMPLETE:
                return 0
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def _failed(self, there: Manifest) -> int:
        """Say the last lines of the first pod, or why there was none; the exit code is bad input's where a pod's is."""
        lines = await self._lines(LINES_OF_A_FAILURE)
        if not lines:
            why = next(each for each in there["status"]["conditions"] if each["type"] == FAILED)
            lines = [f"spin: {self.name} failed on the cluster: {why.get('message', 'nothing was said')}"]
        for line in lines:
            _say(line)
        return BAD_INPUT if BAD_INPUT in await self._exit_codes() else 1

    async def _look(self) -> Manifest | None:
        async with self._credentials.get_client("custom_objects") as api:
            found: Manifest | None = await _unless_absent(
                api.get_namespaced_custom_object(name=self.name, **self._where)
            )
        return found

    def _is_ours(self, there: Manifest | None) -> bool:
        """Whether this TrainJob is for the work that this one is for."""
        return there is not None and work_of(there) == work_of(self._body)

    async def _remove(self) -> None:
        async with self._credentials.get_client("custom_objects") as api:
            await _unless_absent(api.delete_namespaced_custom_object(name=self.name, **self._where))
        while await self._look():
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def _pods(self, api: Any) -> list[Any]:
        """Its pods, the one of the first machine first."""
        found = await api.list_namespaced_pod(
            self._where["namespace"], label_selector=f"jobset.sigs.k8s.io/jobset-name={self.name}"
        )
        index = "batch.kubernetes.io/job-completion-index"
        return sorted(found.items, key=lambda pod: int((pod.metadata.labels or {}).get(index, 0)))

    async def _lines(self, count: int) -> list[str]:
        """The last lines that its first pod printed; none before it has begun."""
        from kubernetes_asyncio.client import ApiException

        async with self._credentials.get_client("core") as api:
            for pod in (await self._pods(api))[:1]:
                try:
                    text = await api.read_namespaced_pod_log(
                        pod.metadata.name, self._where["namespace"], tail_lines=count
                    )
                except ApiException:
                    return []
                return [line for line in re.split("[\r\n]+", text) if line]
        return []

    async def _exit_codes(self) -> set[int]:
        async with self._credentials.get_client("core") as api:
            pods = await self._pods(api)
        states = [status.state.terminated for pod in pods for status in pod.status.container_statuses or []]
        return {state.exit_code for state in states if state}


async def _unless_absent(request: Any) -> Any:
    from kubernetes_asyncio.client import ApiException

    try:
        return await request
    except ApiException as error:
        if error.status == 404:
            return None
        raise


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _text(body: object) -> str:
    return body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)


def main(arguments: Sequence[str]) -> int:
    """Run `spin ARGUMENTS` on the cluster."""
    try:
        if (manifest := manifest_asked()) is None:
            raise ParamsError("SPIN_TRAINJOB must name a manifest, and is not set; docs/scale.md shows one.")
    except ParamsError as error:
        _say(f"spin: {error}")
        return BAD_INPUT
    from kubernetes_asyncio.client import ApiException
    from kubernetes_asyncio.config import ConfigException

    try:
        return asyncio.run(TrainJob(manifest, arguments, Path.cwd()).run())
    except (ParamsError, ConfigException) as error:
        _say(f"spin: {error}")
        return BAD_INPUT
    except ApiException as error:
        _say(f"spin: the cluster refused the TrainJob ({error.status} {error.reason}): {_text(error.body)}")
        return BAD_INPUT if error.status in (400, 401, 403, 404, 422) else 1
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
