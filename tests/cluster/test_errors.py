import pickle

import pytest

from cluster import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.NoEligibleHostError("m", (("a", "tier: open"),)),
        errors.UnknownModelError("m", ("n",)),
        errors.SoleSurvivorError("a", ("11" * 32,)),
        errors.QueueFullError(9, 3),
        errors.QueueTimeoutError("ab", 60, "busy"),
        errors.JobExistsError("ab"),
        errors.RolloutError("m", "it serves already"),
        errors.JobCancelledError("job ab"),
        errors.JobStateError("ab", "unknown"),
        errors.JobTimeoutError("ab", 3.0),
        errors.BundleError("too large"),
        errors.BundleRefusedError("ab", 2),
        errors.LeaseRequestError("stale"),
        errors.AdmissionRefusedError("x"),
        errors.EnclaveUnreachableError("y"),
        errors.NodeStartError("z"),
        errors.NodeEndError((1, 2)),
        errors.MachineError("10.0.0.1", "no route"),
        errors.JoinRefusedError("no_tee", "join from a TEE"),
        errors.JoinLaterError("try_again", "later"),
        errors.HeadUnreachableError("no answer"),
        errors.ConfigError("w"),
        errors.ReceiptRefusedError("v"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_each_error_survives_pickling(error) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.args) == (type(error), str(error), error.args)
