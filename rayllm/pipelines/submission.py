"""Ray jobs: hand a packed working directory and a command to a cluster, follow it, return how it ended.

In: the dashboard's address, a zip and a command. Out: a job id, its log, its exit code. Every failure to reach the
cluster is found in seconds by a probe of our own, because Ray's client waits without a limit.
"""

import asyncio
import contextlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayllm.core.errors import RunFailed, SetupError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PROBE_TIMEOUT_S = 5.0
POLL_S = 0.5
TOKEN_FILE = Path(".ray") / "auth_token"


class JobCluster:
    """A cluster that takes jobs: probed, and with the user's token on every request.

    Args:
        address: URL of the cluster's dashboard, such as ``http://head:8265``.

    Raises:
        SetupError: If nothing there answers as a Ray dashboard within seconds, or it refuses the token.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        headers = authorization()
        self.ray_version = probe(self.address, headers)
        # The client lets RAY_ADDRESS win over its own argument; this variable wins over both.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address
        from ray.job_submission import JobSubmissionClient

        self._client = JobSubmissionClient(self.address, headers=headers)

    def submit(self, command: str, package: Path, *, metadata: dict[str, str]) -> str:
        """Start a job.

        Args:
            command: Shell command that runs in the unpacked working directory.
            package: Zip of the working directory; uploaded unless the cluster has the same bytes already.
            metadata: Shown with the job in Ray's dashboard.

        Returns:
            The job's id.

        Raises:
            SetupError: If the cluster refuses the job.
        """
        try:
            return self._client.submit_job(
                entrypoint=command, runtime_env={"working_dir": str(package)}, metadata=metadata
            )
        except (RuntimeError, OSError) as error:
            raise SetupError("the cluster did not take the job", where=self.address, why=_first_line(error)) from error

    def follow(self, job_id: str, write: Callable[[str], Any]) -> int:
        """Pass the job's log on until the job ends.

        Returns:
            The exit code of the job's command; 1 where the job ended without one.

        Raises:
            SetupError: If the connection is lost; the job itself goes on.
            RunFailed: If the job was stopped, or ended before its command did.
        """
        try:
            asyncio.run(self._tail(job_id, write))
            return self._exit_code(job_id)
        except (RuntimeError, OSError) as error:
            raise SetupError(
                f"lost the connection while following {job_id}; the job goes on",
                where=self.address,
                why=_first_line(error),
                fix=f"ray job logs {job_id} --follow --address {self.address}",
            ) from error

    async def _tail(self, job_id: str, write: Callable[[str], Any]) -> None:
        async for text in self._client.tail_job_logs(job_id):
            write(text)

    def _exit_code(self, job_id: str) -> int:
        while not (found := self._client.get_job_info(job_id)).status.is_terminal():
            time.sleep(POLL_S)
        if found.status == "SUCCEEDED":
            return 0
        if found.status == "FAILED" and found.driver_exit_code:
            # A command killed by a signal has a negative code; 128 + n is how shells report it.
            return found.driver_exit_code if found.driver_exit_code > 0 else 128 - found.driver_exit_code
        raise RunFailed(f"job {job_id} ended as {found.status}", where=self.address, why=(found.message or "").strip())


def authorization() -> dict[str, str]:
    """The header that carries the user's Ray token; empty where there is none."""
    token = find_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def find_token() -> str:
    """The user's Ray token, looked for where Ray looks: two variables, then ``~/.ray/auth_token``.

    Raises:
        SetupError: If ``RAY_AUTH_TOKEN_PATH`` names a file that cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        try:
            return Path(named).read_text().strip()
        except OSError as error:
            raise SetupError(
                "the token file cannot be read", where=f"RAY_AUTH_TOKEN_PATH={named}", why=str(error.strerror)
            ) from error
    with contextlib.suppress(OSError):
        return (Path.home() / TOKEN_FILE).read_text().strip()
    return ""


def probe(address: str, headers: dict[str, str]) -> str:
    """Ask a dashboard for its Ray version, within seconds.

    Args:
        address: URL of the dashboard.
        headers: Sent with the request; see ``authorization``.

    Raises:
        SetupError: Saying which of address, token and service is wrong.
    """
    if not address.startswith(("http://", "https://")):
        raise SetupError(
            "a job's address is the URL of the dashboard", where=address, fix=f"for example {DEFAULT_ADDRESS}"
        )
    request = urllib.request.Request(f"{address}/api/version", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S) as answer:
            return str(json.load(answer)["ray_version"])
    except urllib.error.HTTPError as error:
        raise _refusal(address, error.code, bool(headers)) from error
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise SetupError(
            "no Ray dashboard answers there",
            where=address,
            why=_first_line(error),
            fix="check host and port (the dashboard's is 8265), and that the head node runs; "
            "for a remote cluster, forward the port: ssh -L 8265:localhost:8265 HEAD",
        ) from error


def _refusal(address: str, status: int, has_token: bool) -> SetupError:
    if status not in (401, 403):
        return SetupError("no Ray dashboard answers there", where=address, why=f"HTTP status {status}")
    return SetupError(
        "the cluster refuses this token" if has_token else "the cluster wants a token",
        where=address,
        why=f"HTTP status {status}",
        fix="on the head node, `ray get-auth-token` prints it; put it into RAY_AUTH_TOKEN or ~/.ray/auth_token",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
