"""Random life of a set of books: whatever happens in whatever order, money is conserved.

`make ledger-ops` runs a million operations; the suite as many as LEDGER_OPS says, 2,400 by default.
"""

import os
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from billing.batch import Batch, PayoutState
from billing.checkpoint import Checkpoint, decode_checkpoint
from billing.entries import OPERATOR_FEES, Entry, EntryKind, client_account, hold_account, payee_account
from billing.errors import BillingError, LedgerError, OverdraftError, ReceiptConflictError, VerdictConflictError
from billing.grant import Grant
from billing.hold_book import RELEASE_GRACE_S
from billing.ledger import Ledger
from billing.money import Nanotons
from billing.receipt import Receipt, sign_receipt
from billing.review_book import REVIEW_S
from billing.settlement import Accepted, Delivered, NotProcessed, Sent, SettlementPolicy, Signed, plan_batches, step
from billing.statement import Role, balances
from billing.tariff import Tariff
from billing.verdict import QUORUM, RESULTS_MAX, sign_verdict
from tests.billing.support import (
    HOST_KEY,
    NOW,
    OPEN_PAYEES,
    PAYEES,
    TARIFF,
    THOUGHTFUL,
    inside,
    key,
    make_grant,
    make_open_grant,
    make_open_receipt,
    make_receipt,
    make_verdict,
    public,
    request_id,
)
from tests.billing.test_settlement import MESSAGE

CLIENTS = [public(3), public(4)]
OPERATIONS = int(os.environ.get("LEDGER_OPS", "2400"))
LIFE = 40 if OPERATIONS < 100_000 else 100  # operations in one set of books
TARIFFS = [TARIFF, THOUGHTFUL]
POLICY = SettlementPolicy(threshold=Nanotons(20_000), dust=Nanotons(1_000), max_age_s=500)


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.entries: list[Entry] = []
        self.now = NOW
        self.grants: list[Grant] = []
        self.deposits = 0
        self.charged: dict[bytes, int] = {}
        self.released: set[bytes] = set()
        self.batches: list[Batch] = []
        self.on_chain = 0

        self.units = 0
        self.waiting: dict[bytes, Receipt] = {}  # in review
        self.refunded = 0

    def apply(self, entry: Entry) -> None:
        if not self.ledger.has(entry):
            self.entries.append(entry)
        self.ledger.apply(entry)

    @rule()
    def restart_from_a_checkpoint(self) -> None:
        batches = {batch.id: batch for batch in self.batches}
        kept = Checkpoint(seq=len(self.entries), checksum=bytes(32), ledger=self.ledger, batches=batches)
        found = decode_checkpoint(kept.encode())
        assert found.batches == batches
        self.ledger = found.ledger

    @rule(client=st.sampled_from(CLIENTS), amount=st.integers(1, 300_000))
    def deposit(self, client: bytes, amount: int) -> None:
        self.deposits += 1
        self.on_chain += amount
        for _ in range(2):
            self.apply(self.ledger.plan_deposit(str(self.deposits), client, amount, now=self.now))

    @rule(amount=st.integers(1, 50_000))
    def fund(self, amount: int) -> None:
        self.deposits += 1
        self.on_chain += amount
        self.apply(self.ledger.plan_funding(str(self.deposits), amount, now=self.now))

    @rule(amount=st.integers(1, 900))
    def chain_fee(self, amount: int) -> None:
        self.deposits += 1
        self.on_chain -= amount
        self.apply(self.ledger.plan_fee(str(self.deposits), amount, now=self.now))

    @rule(
        client=st.sampled_from(CLIENTS),
        slices=st.tuples(*[st.integers(0, 60_000)] * 3),
        life=st.integers(1, 900),
        tariff=st.sampled_from(TARIFFS),
    )
    def take_lease(self, client: bytes, slices: tuple[int, int, int], life: int, tariff: Tariff) -> None:
        grant = make_grant(len(self.grants), account=client, slices=slices, not_after=self.now + life, tariff=tariff)
        before = self.ledger.available(client)
        try:
            self.apply(self.ledger.plan_hold(grant, now=self.now))
        except LedgerError:
            assert before < grant.amount
            return
        self.grants.append(grant)
        assert self.ledger.available(client) == before - grant.amount

    @precondition(lambda self: any(not grant.review for grant in self.grants))
    @rule(
        data=st.data(),
        request=st.integers(0, 20),
        host=st.integers(0, 2),
        tokens=st.integers(0, 60),
        cached=st.integers(0, 10),
    )
    def post_receipt(self, data: st.DataObject, request: int, host: int, tokens: int, cached: int) -> None:
        grant = data.draw(st.sampled_from([grant for grant in self.grants if not grant.review]))
        receipt = make_receipt(
            grant, request, host=host, completion=tokens, cached=cached, reasoning=data.draw(st.integers(0, tokens))
        )
        try:
            entry = self.ledger.plan_receipt(
                receipt,
                signed=sign_receipt(receipt, HOST_KEY),
                fee_permille=data.draw(st.integers(0, 1000)),
                now=self.now,
            )
        except ReceiptConflictError:
            assert any(e.id == f"receipt:{receipt.request_hash.hex()}" for e in self.entries)
            return
        except LedgerError:
            return
        if not self.ledger.has(entry):
            assert grant.lease not in self.released
            self.charged[grant.lease] = self.charged.get(grant.lease, 0) + receipt.price
        self.apply(entry)

    @rule(client=st.sampled_from(CLIENTS), each=st.sampled_from([0, 20_000, 60_000]), life=st.integers(1, 900))
    def take_open_lease(self, client: bytes, each: int, life: int) -> None:
        grant = make_open_grant(len(self.grants), account=client, each=each, not_after=self.now + life)
        self.deposit(client, max(1, grant.amount - self.ledger.available(client)))
        self.apply(self.ledger.plan_hold(grant, now=self.now))
        self.grants.append(grant)

    @precondition(lambda self: any(grant.review for grant in self.grants))
    @rule(data=st.data(), request=st.integers(0, 12), hosts=st.permutations(range(6)), count=st.sampled_from([6, 4, 1]))
    def post_open_receipts(self, data: st.DataObject, request: int, hosts: list[int], count: int) -> None:
        grant = data.draw(st.sampled_from([grant for grant in self.grants if grant.review]))
        for host in hosts[:count]:
            payee = data.draw(st.sampled_from([host, 0]))
            receipt = make_open_receipt(grant, 100 + 6 * request + host, host, payee=payee)
            signed = sign_receipt(receipt, HOST_KEY)
            try:
                entry = self.ledger.plan_receipt(receipt, signed=signed, fee_permille=50, now=self.now)
            except LedgerError:
                continue
            late = self.ledger.reviews.plan_late(entry, now=self.now)
            if not self.ledger.has(entry):
                self.charged[grant.lease] = self.charged.get(grant.lease, 0) + receipt.price
                self.waiting[receipt.request_hash] = receipt
            self.apply(entry)
            self.end_reviews(late)

    @precondition(lambda self: self.waiting)
    @rule(
        data=st.data(),
        stranger=st.sampled_from([False] * 9 + [True]),
        unseen=st.sampled_from([False, False, True]),
        size=st.sampled_from([6, 4, 3, 1]),
        credited=st.sampled_from([2, 3, 0, 1]),
    )
    def judge(self, data: st.DataObject, stranger: bool, unseen: bool, size: int, credited: int) -> None:
        """Any verdict at all: the ledger refuses it, or ends each review that it names once."""
        known = sorted(self.waiting.values(), key=lambda receipt: receipt.request_hash)
        named = data.draw(st.permutations(known))[:size]
        cut = min(credited, len(named))
        refused: list[Receipt | bytes] = [*named[cut:]]
        if unseen and (late := request_id(data.draw(st.integers(100, 177)))) not in self.waiting:
            refused.append(late)
        client = CLIENTS[0] if stranger else named[0].account
        self.units += 1
        verdict = make_verdict(self.units, named[:cut], refused, account=client)
        signed = sign_verdict(verdict, key(CLIENTS.index(client) + 3))
        try:
            entry, *outcomes = self.ledger.plan_verdict(verdict, signed, now=self.now)
        except LedgerError:
            return
        owners = {receipt.payee for receipt in named[:cut]}
        for receipt in named[cut:]:
            payees = {one.payee for one in named} if not cut else owners - {receipt.payee}
            assert len(payees) >= (RESULTS_MAX if not cut else QUORUM)
        assert len({receipt.payee for receipt in named[cut:]}) == len(named) - cut
        self.apply(entry)
        self.end_reviews(outcomes)
        with pytest.raises(VerdictConflictError):
            again = make_verdict(self.units, [], [request_id(999)], account=client)
            self.ledger.plan_verdict(again, sign_verdict(again, key(CLIENTS.index(client) + 3)), now=self.now)

    @rule()
    def reviews_end(self) -> None:
        self.now += REVIEW_S // 3
        self.end_reviews(self.ledger.plan_review_ends(now=self.now))

    def end_reviews(self, outcomes: Iterable[Entry]) -> None:
        for outcome in outcomes:
            name = bytes.fromhex(outcome.id.partition(":")[2])
            receipt = self.waiting.pop(name)
            before = self.ledger.available(receipt.account)
            self.apply(outcome)
            self.apply(outcome)
            back = receipt.price if outcome.kind is EntryKind.REFUSAL else 0
            assert self.ledger.available(receipt.account) == before + back
            self.refunded += back

    @precondition(lambda self: self.grants)
    @rule(data=st.data())
    def overcharge(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from(self.grants))
        receipt = make_open_receipt(grant, 10_000, 0) if grant.review else make_receipt(grant, 10_000)
        greedy = replace(receipt, price=Nanotons(receipt.price + 1))
        with pytest.raises(BillingError):
            self.ledger.plan_receipt(greedy, signed=sign_receipt(greedy, HOST_KEY), fee_permille=0, now=self.now)

    @rule(seconds=st.integers(1, 600))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: self.grants)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from(self.grants))
        try:
            entry = self.ledger.plan_release(grant.lease, now=self.now)
        except LedgerError:
            assert self.now < grant.not_after + RELEASE_GRACE_S
            return
        before = self.ledger.balance(client_account(grant.account))
        self.apply(entry)
        if grant.lease not in self.released:
            rest = grant.amount - self.charged.get(grant.lease, 0)
            assert self.ledger.balance(client_account(grant.account)) == before + rest
        else:
            assert self.ledger.balance(client_account(grant.account)) == before
        self.released.add(grant.lease)

    @rule()
    def plan_settlement(self) -> None:
        for batch in plan_batches(self.ledger.payables(), POLICY, now=self.now, first_sequence=len(self.batches)):
            self.apply(self.ledger.plan_batch(batch, now=self.now))
            self.batches.append(batch)

    @precondition(lambda self: any(not batch.finished for batch in self.batches))
    @rule(data=st.data())
    def end_batch(self, data: st.DataObject) -> None:
        batch = next(batch for batch in self.batches if not batch.finished)
        after = step(step(batch, Signed(message=MESSAGE)), Sent(at=self.now))
        if data.draw(st.booleans()):
            paid = data.draw(st.frozensets(st.sampled_from(range(len(batch.payouts)))))
            after = step(step(after, Accepted(transaction=b"t" * 32)), Delivered(paid=paid))
        else:
            after = step(after, NotProcessed(chain_time=MESSAGE.dead_at + 1, read_from_lt=0))
        for payout in after.payouts:
            is_paid = payout.state is PayoutState.PAID
            plan = self.ledger.plan_payout if is_paid else self.ledger.plan_requeue
            self.apply(plan(batch, payout.payee, now=self.now))
            self.on_chain -= payout.amount if is_paid else 0
        self.batches[batch.sequence] = after

    @rule(payee=st.sampled_from(PAYEES + OPEN_PAYEES), part=st.integers(1, 100))
    def claim(self, payee: bytes, part: int) -> None:
        owed = self.ledger.balance(payee_account(payee))
        with pytest.raises(OverdraftError):
            self.ledger.apply(self.ledger.plan_claim("too much", payee, owed + 1, now=self.now))
        if amount := owed * part // 100:
            self.deposits += 1
            self.on_chain -= amount
            self.apply(self.ledger.plan_claim(str(self.deposits), payee, amount, now=self.now))

    @invariant()
    def what_clients_paid_is_what_payees_and_operator_earned(self) -> None:
        earned = sum(total.earned for total in self.ledger.totals())
        reviewed = sum(receipt.price for receipt in self.waiting.values())
        assert reviewed == sum(review.price for review in self.ledger.reviews.open())
        assert sum(self.charged.values()) == earned + self.ledger.balance(OPERATOR_FEES) + reviewed + self.refunded

    @invariant()
    def money_is_conserved(self) -> None:
        assert self.ledger.imbalance() == 0
        assert self.ledger.treasury() == self.on_chain

    @invariant()
    def nobody_is_below_zero(self) -> None:
        for account, balance in self.ledger.balances().items():
            assert balance >= 0 or account in {"treasury", "chain:fees"}, account

    @invariant()
    def no_lease_is_charged_more_than_was_held(self) -> None:
        for grant in self.grants:
            charged = self.charged.get(grant.lease, 0)
            assert charged <= grant.amount
            held = self.ledger.balance(hold_account(grant.lease))
            assert held == (0 if grant.lease in self.released else grant.amount - charged)

    @invariant()
    def nobody_was_paid_more_than_earned(self) -> None:
        assert all(total.paid <= total.earned for total in self.ledger.totals())

    def teardown(self) -> None:
        again = Ledger.replay(self.entries)
        assert inside(again) == inside(self.ledger)
        assert (again.totals(), sorted(again.payables(), key=str)) == (
            self.ledger.totals(),
            sorted(self.ledger.payables(), key=str),
        )
        assert [again.lease(one.lease) for one in self.grants] == [self.ledger.lease(one.lease) for one in self.grants]
        shares = balances(self.entries, end=self.now + 1)
        assert sum(share.amount for share in shares.values()) == self.on_chain
        for party, share in shares.items():
            if party.role is not Role.OPERATOR:
                account = (client_account if party.role is Role.CLIENT else payee_account)(party.name)
                assert share.amount - share.aside == self.ledger.balance(account)


LedgerMachine.TestCase.settings = settings(
    max_examples=max(1, OPERATIONS // LIFE),
    stateful_step_count=LIFE,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLedger = pytest.mark.timeout(120 + OPERATIONS // 50)(LedgerMachine.TestCase)
