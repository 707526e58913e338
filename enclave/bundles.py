"""The code that jobs bring to this host: which of it may be logged, and logging it before it runs.

What was logged cannot be taken back, and every verifier whose policy does not name it refuses the host from then on. So
the enclave refuses first what its own policy does not name.
"""

import asyncio
import logging

from attestation.collect import Attester
from attestation.errors import AttesterError, NoRegisterError, RestartNeededError
from attestation.eventlog import EventKind, LogEvent
from enclave.errors import ForbiddenError, UnavailableError

logger = logging.getLogger(__name__)


class BundleDesk:
    """Logs job bundles into the host's run-time log."""

    def __init__(self, attester: Attester, approved: frozenset[bytes]) -> None:
        """`approved` is the SHA-256 of each bundle that may run here, 32 bytes each."""
        self._attester, self._approved = attester, approved

    async def log(self, digest: bytes) -> None:
        """Log a bundle that is about to run; all later evidence names it. One that is logged already changes nothing.

        Args:
            digest: SHA-256 of the bundle, 32 bytes.

        Raises:
            ForbiddenError: the policy does not name it, or nothing here would prove it. Nothing happened.
            UnavailableError: it is not certain to be logged. Either way the bundle must not run.
        """
        if digest not in self._approved:
            raise ForbiddenError(
                f"job bundle {digest.hex()} is not among the {len(self._approved)} job_bundles of this host's policy: "
                "have it approved, put the new policy on the host, and start its enclave again",
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
