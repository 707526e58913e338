"""Python jobs over Ray's job submission: placed by attested capability, pinned to the node of the host that was chosen.

Ray's list of jobs is the only record; the scheduler's slots follow it (`settle`), so nothing here has to survive.
"""

import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.actors.handles import SCHEDULER, find
from cluster.errors import JobStateError, JobTimeoutError
from cluster.job_bundle import Bundle
from cluster.job_queue import UNSATISFIABLE_AFTER_S, Job
from cluster.job_spec import JobSpec
from cluster.job_unpack import wrap_bundle
from cluster.model import Placement

CALL_TIMEOUT_S = 30.0
POLL_S = 0.5
NODE_LABEL = "ray.io/node-id"
_PREFIX = "chrysalis-"
_JOB_START = ("python", "-m", "cluster.job_start")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One job as Ray knows it. Times in seconds since 1970."""

    job_id: str  # hex
    status: str
    host_id: str  # hex
    bundle: str  # SHA-256, hex
    entrypoint: str
    started_at: float
    message: str
    exit_code: int | None = None  # of the job's own process; None while it runs, and where it was lost

    @property
    def over(self) -> bool:
        """Whether it ended, in whatever way."""
        return bool(JobStatus(self.status).is_terminal())

    @property
    def host_held(self) -> bool:
        """Whether the host did its part: it ran the job to its end, whatever the job itself made of it."""
        return self.status != JobStatus.FAILED or self.exit_code is not None


class Jobs:
    """The operator's jobs. Needs a driver that is connected to the cluster."""

    def __init__(self, dashboard: str) -> None:
        """`dashboard` is host:port of Ray's dashboard; the token comes from the environment, as Ray reads it."""
        self._client = JobSubmissionClient(f"http://{dashboard}")
        self._scheduler: Any = find(SCHEDULER)

    def place(self, spec: JobSpec, job_id: bytes) -> Placement:
        """Wait for a host that satisfies the spec.

        Raises:
            NoEligibleHostError: none does, for half a minute; says which rule each lost.
            QueueTimeoutError: none had room for `wait_s`.
            JobStateError: the chosen host has no Ray node.
        """
        job = Job(
            job_id=job_id,
            account=b"operator",
            requirement=spec.requirement,
            cost=spec.timeout_s * max(1, spec.requirement.gpus_min),
            wait_max_s=spec.wait_s,
        )
        within = max(spec.wait_s, UNSATISFIABLE_AFTER_S) + CALL_TIMEOUT_S
        try:
            placement: Placement = ray.get(self._scheduler.place_job.remote(job), timeout=within)
        except BaseException:
            self._scheduler.cancel_job.remote(job_id)
            raise
        if placement.node_id is None:
            self._scheduler.cancel_job.remote(job_id)
            raise JobStateError(job_id.hex(), "its host has no Ray node yet: submit it again")
        return placement

    def start(
        self,
        spec: JobSpec,
        bundle: Bundle,
        command: Sequence[str],
        placement: Placement,
        job_id: bytes,
        *,
        measured: bool,
    ) -> None:
        """Start a placed job on its host's node; its place is given back when that fails.

        `measured`: the host unpacks the bundle only after its enclave logged it, see `cluster.job_start`.
        """
        data = wrap_bundle(bundle) if measured else bundle.data
        started = [*_JOB_START, bundle.digest.hex(), "--", *command] if measured else command
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, f"{bundle.digest.hex()}.zip")
                path.write_bytes(data)
                self._client.submit_job(
                    entrypoint=shlex.join(started),
                    submission_id=_PREFIX + job_id.hex(),
                    runtime_env={"working_dir": str(path), "env_vars": dict(spec.env)},
                    metadata={"host_id": placement.host_id.hex(), "bundle": bundle.digest.hex()},
                    entrypoint_label_selector={NODE_LABEL: placement.node_id or ""},
                )
        except BaseException:
            self._finish(job_id, ok=True)  # nothing ran: no mark against the host
            raise

    def follow(self, job_id: bytes, *, timeout_s: float, show: Callable[[str], None]) -> JobRow:
        """Show what a job prints until it ended, and give its place back; one that runs too long is stopped.

        Raises:
            JobTimeoutError: it was stopped after `timeout_s`.
        """
        name, until, shown = _PREFIX + job_id.hex(), time.monotonic() + timeout_s, 0
        while True:
            over = JobStatus(self._client.get_job_status(name)).is_terminal()
            logs = self._client.get_job_logs(name)
            show(logs[shown:])
            shown = len(logs)
            if over:
                row = self._row(self._client.get_job_info(name))
                self._finish(job_id, ok=row.host_held)
                return row
            if time.monotonic() > until:
                self.stop(job_id)
                raise JobTimeoutError(job_id.hex(), timeout_s)
            time.sleep(POLL_S)

    def list(self) -> list[JobRow]:
        """Every job that Ray remembers, newest first; places of those that ended are given back."""
        details = [each for each in self._client.list_jobs() if (each.submission_id or "").startswith(_PREFIX)]
        rows = sorted((self._row(each) for each in details), key=lambda row: -row.started_at)
        for row in rows:
            if row.over:
                self._finish(bytes.fromhex(row.job_id), ok=row.host_held)
        return rows

    def logs(self, job_id: bytes) -> str:
        """What a job printed; JobStateError when there is none of this id."""
        self._known(job_id)
        return str(self._client.get_job_logs(_PREFIX + job_id.hex()))

    def stop(self, job_id: bytes) -> None:
        """Stop a job and give its place back; JobStateError when there is none of this id."""
        self._known(job_id)
        self._client.stop_job(_PREFIX + job_id.hex())
        self._finish(job_id, ok=True)  # somebody's wish, not the host's failure

    def _known(self, job_id: bytes) -> None:
        try:
            self._client.get_job_status(_PREFIX + job_id.hex())
        except RuntimeError as error:
            raise JobStateError(job_id.hex(), "there is no such job: see `chrysalis jobs list`") from error

    def _finish(self, job_id: bytes, *, ok: bool) -> None:
        ray.get(self._scheduler.finish_job.remote(job_id, ok), timeout=CALL_TIMEOUT_S)

    def _row(self, details: Any) -> JobRow:  # noqa: ANN401  Ray's JobDetails
        metadata: Mapping[str, str] = details.metadata or {}
        return JobRow(
            job_id=details.submission_id.removeprefix(_PREFIX),
            status=str(getattr(details.status, "value", details.status)),
            host_id=metadata.get("host_id", ""),
            bundle=metadata.get("bundle", ""),
            entrypoint=details.entrypoint,
            started_at=(details.start_time or 0) / 1000,
            message=details.message or "",
            exit_code=details.driver_exit_code,
        )
