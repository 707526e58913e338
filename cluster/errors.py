"""What can go wrong in the cluster.

ClusterError
├── ConfigError                 a setting is missing, unknown or impossible
├── RefusedError                asked, and no: trying the same again gives the same answer
│   ├── AdmissionRefusedError   this host's evidence or answers do not hold
│   ├── SoleSurvivorError       the last host of a model may not be drained yet
│   ├── NoEligibleHostError     no host fits; carries which rule each host lost
│   ├── OperatorClosedError     governance lets this operator take no new leases
│   ├── QueueFullError          as many jobs wait as are allowed
│   ├── QueueTimeoutError       a job waited for as long as it wanted to
│   ├── JobCancelledError       somebody took the job back while it waited
│   ├── JobExistsError          a job of this id waits or runs
│   ├── JobStateError           a job is not there, or not in a state for this
│   ├── JobTimeoutError         a job ran for longer than it may, and was stopped
│   ├── BundleError             the code of a job cannot travel
│   │   └── BundleRefusedError  governance did not approve it
│   ├── RolloutError            a model's roots cannot be changed like this now
│   ├── UnknownModelError       the registry does not list this model
│   ├── LeaseRequestError       the signed lease request asks for what cannot be had
│   │   └── StaleRequestError   it was signed too long ago, or in the future
│   ├── ReceiptRefusedError     a receipt that the ledger may not take
│   ├── TooManyVerdictsError    a client sends verdicts faster than they are taken
│   └── JoinRefusedError        this machine may not join the cluster; carries the code it was refused with
└── TroubleError                could not ask: a retry may help
    ├── EnclaveUnreachableError the enclave does not answer
    │   └── EnclaveSilentError  nothing came in time: it is gone, or slow, or we are
    ├── HeadUnreachableError    the head does not answer, or not in its protocol
    ├── JoinLaterError          the head answers, and cannot say yes or no now
    ├── NodeStartError          a Ray node did not come up, or did not say so in time
    ├── NodeEndError            processes of a Ray node did not end
    └── MachineError            a machine of cluster.yaml could not be reached by ssh, or did not do what it was told
"""

from collections import Counter

LOST_SHOWN = 8  # hosts named in one message


class ClusterError(Exception):
    """Root of everything this package raises on purpose."""


class ConfigError(ClusterError):
    """A setting is missing, unknown or impossible; the text says which and what to write instead."""


class RefusedError(ClusterError):
    """Asked, and the answer is no."""


class AdmissionRefusedError(RefusedError):
    """The host may not join; nothing it claims may be used."""


class SoleSurvivorError(RefusedError):
    """Nobody else serves a model of this host."""

    def __init__(self, host: str, models: tuple[str, ...]) -> None:
        super().__init__(host, models)
        self.host = host
        self.models = models

    def __str__(self) -> str:
        names = ", ".join(root[:16] for root in self.models)
        return f"no other host serves {names}: place it elsewhere first, or force the maintenance of {self.host}"


class OperatorClosedError(RefusedError):
    """The registry contract says that this operator takes no new leases."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return (
            f"this operator takes no new leases: {self.why}; leases that run, run out; take one from another operator"
        )


class NoEligibleHostError(RefusedError):
    """No host satisfies the requirement."""

    def __init__(self, model: str, lost: tuple[tuple[str, str], ...]) -> None:
        super().__init__(model, lost)
        self.model = model
        self.lost = lost

    def __str__(self) -> str:
        if not self.lost:
            return f"no host has joined yet that could serve {self.model}; retry in a few seconds"
        reasons = "; ".join(f"{host}: {reason}" for host, reason in self.lost[:LOST_SHOWN])
        if len(self.lost) > LOST_SHOWN:
            rules = Counter(reason.partition(":")[0] for _, reason in self.lost)
            counts = ", ".join(f"{count} by {rule}" for rule, count in rules.most_common())
            reasons += f"; and so on, {len(self.lost)} hosts: {counts}"
        return (
            f"no host may serve {self.model} on these terms ({reasons}); relax the tier, the budget or the hosts asked"
        )


class QueueFullError(RefusedError):
    """No more jobs may wait."""

    def __init__(self, waiting: int, own: int) -> None:
        super().__init__(waiting, own)
        self.waiting = waiting
        self.own = own

    def __str__(self) -> str:
        return f"{self.waiting} jobs wait, {self.own} of them of this account: submit more when some are placed"


class QueueTimeoutError(RefusedError):
    """A job was not placed in the time it was ready to wait."""

    def __init__(self, job: str, waited_s: int, reason: str) -> None:
        super().__init__(job, waited_s, reason)
        self.job = job
        self.waited_s = waited_s
        self.reason = reason

    def __str__(self) -> str:
        return f"job {self.job} was not placed within {self.waited_s} s: {self.reason}; let it wait longer or ask less"


class JobCancelledError(RefusedError):
    """A job was taken back while it waited."""


class JobExistsError(RefusedError):
    """A job id is used once."""

    def __init__(self, job: str) -> None:
        super().__init__(job)
        self.job = job

    def __str__(self) -> str:
        return f"job {self.job} waits or runs already: give each job an id of its own"


class JobStateError(RefusedError):
    """A job is not there, or not in a state for what was asked."""

    def __init__(self, job: str, why: str) -> None:
        super().__init__(job, why)
        self.job, self.why = job, why

    def __str__(self) -> str:
        return f"job {self.job}: {self.why}"


class JobTimeoutError(RefusedError):
    """A job ran for longer than it may, and was stopped."""

    def __init__(self, job: str, timeout_s: float) -> None:
        super().__init__(job, timeout_s)
        self.job, self.timeout_s = job, timeout_s

    def __str__(self) -> str:
        return f"job {self.job} was stopped after {self.timeout_s:.0f} s: give it a longer timeout_s"


class BundleError(RefusedError):
    """The code of a job cannot travel; the text says which file, and what to do."""


class BundleRefusedError(BundleError):
    """Governance did not approve this code."""

    def __init__(self, digest: str, approved: int) -> None:
        super().__init__(digest, approved)
        self.digest, self.approved = digest, approved

    def __str__(self) -> str:
        return (
            f"bundle {self.digest} is not among the {self.approved} job_bundles of the policy: have it approved first"
        )


class RolloutError(RefusedError):
    """A roll-out that cannot begin, or cannot be taken back."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model = model
        self.reason = reason

    def __str__(self) -> str:
        return f"model {self.model!r}: {self.reason}"


class UnknownModelError(RefusedError):
    """The registry does not list this model."""

    def __init__(self, model: str, known: tuple[str, ...]) -> None:
        super().__init__(model, known)
        self.model = model
        self.known = known

    def __str__(self) -> str:
        return f"model {self.model!r} is not in the registry; it lists: {', '.join(self.known) or 'none'}"


class LeaseRequestError(RefusedError):
    """A lease request that asks for what cannot be had; the text says what to ask instead."""


class StaleRequestError(LeaseRequestError):
    """A lease request that was signed too long ago, or in the future."""


class ReceiptRefusedError(RefusedError):
    """A receipt that the ledger may not take."""


class TooManyVerdictsError(RefusedError):
    """A client sends verdicts faster than they are taken."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s

    def __str__(self) -> str:
        return f"too many verdicts: send the same one again in {self.wait_s:.1f} s"


class JoinRefusedError(RefusedError):
    """A machine that wants to join is refused; the text says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return self.message


class TroubleError(ClusterError):
    """Could not ask; a retry may help."""


class EnclaveUnreachableError(TroubleError):
    """The enclave does not answer, or not in its protocol."""


class EnclaveSilentError(EnclaveUnreachableError):
    """Nothing came from the enclave in time."""


class HeadUnreachableError(TroubleError):
    """The head does not answer, or not in its protocol."""


class JoinLaterError(TroubleError):
    """The head answers, and cannot say yes or no now: ask again."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return self.message


class NodeStartError(TroubleError):
    """A Ray node did not come up."""


class NodeEndError(TroubleError):
    """Processes of a Ray node did not end."""

    def __init__(self, pids: tuple[int, ...]) -> None:
        super().__init__(pids)
        self.pids = pids

    def __str__(self) -> str:
        return f"processes {', '.join(map(str, self.pids))} of the Ray node did not end: look at them, and try again"


class MachineError(TroubleError):
    """A machine of cluster.yaml could not be reached by ssh, or did not do what it was told."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.address} did not do it: {self.reason}"
