"""The code that jobs bring to this host: which of it may be logged, and logging it before it runs.

What was logged cannot be taken back, and every verifier whose policy does not name it refuses the host from then on. So
the enclave refuses first what its own policy does not name.
"""

import asyncio
import logging
from pathlib import Path

from attestation.collect import Attester
from attestation.errors import AttesterError, NoRegisterError, PolicyError, RestartNeededError
from attestation.eventlog import EventKind, LogEvent
from attestation.policy_file import read_job_bundles
from enclave.errors import ForbiddenError, UnavailableError

logger = logging.getLogger(__name__)


class ApprovedBundles:
    """The `job_bundles` of the host's policy file, as it is now; one that cannot be read leaves the last good list."""

    def __init__(self, bundles: frozenset[bytes], file: Path | None) -> None:
        """`bundles` is the SHA-256 of each, 32 bytes; `file` says more once it changes, None: nothing changes."""
        self._bundles, self._file = bundles, file
        self._seen: tuple[int, ...] | None = None
        self._trouble = ""

    def current(self) -> tuple[frozenset[bytes], str]:
        """The list, and what is wrong with a newer file that was not taken; empty when nothing is."""
        if self._file is not None:
            try:
                seen = _stamp(self._file)
                if seen != self._seen:
                    self._take(read_job_bundles(self._file))
                    self._seen = seen  # as it was before it was read: a change meanwhile is seen the next time
            except (OSError, PolicyError) as error:
                self._refuse(str(error))
        return self._bundles, self._trouble

    def _take(self, bundles: frozenset[bytes]) -> None:
        if bundles != self._bundles:
            logger.info("job_policy was read again: %d job bundles", len(bundles))
        self._bundles, self._trouble = bundles, ""

    def _refuse(self, why: str) -> None:
        if why != self._trouble:
            logger.error("job_policy is not taken, the last list of %d bundles holds: %s", len(self._bundles), why)
        self._seen, self._trouble = None, why


def _stamp(file: Path) -> tuple[int, ...]:
    state = file.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


class BundleDesk:
    """Logs job bundles into the host's run-time log."""

    def __init__(self, attester: Attester, approved: ApprovedBundles) -> None:
        """`approved` says which bundles may run here."""
        self._attester, self._approved = attester, approved

    async def log(self, digest: bytes) -> None:
        """Log a bundle that is about to run; all later evidence names it. One that is logged already changes nothing.

        Args:
            digest: SHA-256 of the bundle, 32 bytes.

        Raises:
            ForbiddenError: the policy does not name it, or nothing here would prove it. Nothing happened.
            UnavailableError: it is not certain to be logged. Either way the bundle must not run.
        """
        approved, trouble = self._approved.current()
        if digest not in approved:
            newer = f" (a newer file was not taken: {trouble})" if trouble else ""
            raise ForbiddenError(
                f"job bundle {digest.hex()} is not among the {len(approved)} job_bundles of this host's policy{newer}: "
                "have it approved, and put the new policy on the host",
                "bundle_not_allowed",
            )
        event = LogEvent(kind=EventKind.JOB_BUNDLE, digest=digest)
        try:
            await asyncio.to_thread(self._attester.extend, event)
        except NoRegisterError as error:
            raise ForbiddenError(f"{error}; run the job on a TDX host", "no_register") from error
        except RestartNeededError as error:
            logger.error("the guest must restart: %s", error)  # noqa: TRY400
            raise UnavailableError(f"the guest must restart: {error}", "restart_needed") from error
        except AttesterError as error:
            raise UnavailableError(f"the bundle is not logged: {error}", "not_logged") from error
        logger.info("job bundle %s is logged", digest.hex())
