"""Verdicts on units: what a judgement says of copies, signed, and brought to the operator's books."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence

from billing.money import Nanotons
from billing.verdict import COPIES_MAX, QUORUM, UnitVerdict, sign_verdict
from client.copy_journal import Copy, CopyJournal, CopyState, KeptVerdict, Unit
from client.errors import ClientError, GatewayError, LeaseRefusedError
from client.redundancy import Judgement
from client.running import ClientParts

_LATER = frozenset({429, 503})  # of a refusal: the same verdict may be taken then
_log = logging.getLogger(__name__)


def make_verdict(
    parts: ClientParts, number: int, unit: Unit, copies: Sequence[Copy], judgement: Judgement
) -> KeptVerdict:
    """Return the signed verdict that follows a judgement: a result, or that the unit failed.

    Copies whose answers never came are refused too, one of an owner, as far as the books allow that: hosts may hold
    receipts of them.
    """
    done = {copy.host: copy for copy in copies if copy.state is CopyState.DONE}
    credited = [done[host] for host in judgement.credited]
    refused = list(done.values()) if judgement.failed else [done[host] for host in judgement.refused]
    owners = {copy.payee for copy in credited}
    judged = {copy.payee for copy in refused}
    lost = {copy.payee: copy for copy in copies if copy.state is CopyState.LOST and copy.payee not in judged}
    refused += [copy for copy in lost.values() if len(owners - {copy.payee}) >= QUORUM][
        : COPIES_MAX - len(credited) - len(refused)
    ]
    verdict = UnitVerdict(
        operator=parts.registry.view().operator().terms.public_key,
        account=parts.wallet.account,
        unit=unit.id,
        issued_at=int(parts.clock().timestamp()),
        credited=tuple(sorted(copy.request_hash for copy in credited)),
        refused=tuple(sorted(copy.request_hash for copy in refused)),
    )
    return KeptVerdict(
        unit=unit.id,
        number=number,
        signed=sign_verdict(verdict, parts.wallet.key),
        receipts=tuple(copy.receipt for copy in (*credited, *refused) if copy.receipt),
        refused=verdict.refused,
        refused_price=Nanotons(sum(copy.price for copy in refused)),
    )


async def deliver(parts: ClientParts, copies: CopyJournal, verdict: KeptVerdict) -> bool:
    """Bring a verdict to the operator's books; False when it could not be asked now, and has to be done later.

    What the books take as refused is dropped from the client's own receipts: it is on no bill.
    """
    try:
        operator = parts.registry.view().operator()
    except ClientError as error:
        _log.warning("%s; the verdict on unit %s waits", error, verdict.unit.hex())
        return False
    fields = {
        "verdict": base64.b64encode(verdict.signed).decode(),
        "receipts": [base64.b64encode(receipt).decode() for receipt in verdict.receipts],
    }
    for gateway in (parts.config.gateway,) if parts.config.gateway else operator.terms.endpoints:
        try:
            await parts.transport.send_verdict(gateway, fields)
        except LeaseRefusedError as error:
            if error.status in _LATER:
                continue
            _log.warning("the verdict on unit %s is not taken: %s %s", verdict.unit.hex(), error.status, error.code)
            copies.delivered(verdict, taken=False)
            return True
        except GatewayError as error:
            _log.warning("%s; the verdict on unit %s waits", error, verdict.unit.hex())
            continue
        for request_hash in verdict.refused:
            receipt = parts.receipts.forget_refused(request_hash)
            if receipt is not None and parts.payer is not None:
                parts.payer.refused(operator, receipt)
        copies.delivered(verdict, taken=True)
        return True
    return False
