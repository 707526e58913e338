"""Whatever orders, claims and top-ups follow each other: nobody gets more than it earned, everybody gets it in the end.

The operator of this test keeps books as the real one does. It signs from what it has seen of the vault, and what it
signed may arrive late, twice or never, with claims in between.
"""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pytoniq_core import Address, Cell

from billing.entitlements import Entitlements
from billing.money import Nanotons
from billing.ton.cells import payee_of
from billing.ton.emulator import ExternalNotAcceptedError
from billing.ton.outgoing import OutMessage
from billing.ton.vault import OP_PAID
from billing.ton.vault_order import Order
from tests.contracts.harness import STRANGER, TON, Outcome, VaultInVm

PAYEES = [Address((0, sha256(f"payee {i}".encode()).digest())) for i in range(3)]
WHO = st.integers(0, len(PAYEES) - 1)


class VaultMoney(RuleBasedStateMachine):
    """Orders, claims, earnings and money in any order."""

    @initialize(tons=st.integers(1, 20))
    def deploy(self, tons: int) -> None:
        self.vault = VaultInVm()
        self.vault.send(STRANGER, value=tons * TON, init=self.vault.init)
        self.earned: Counter[Address] = Counter()
        self.pushed: Counter[Address] = Counter()
        self.claimed: Counter[Address] = Counter()
        self.under_way: tuple[Cell, dict[Address, int], Entitlements] | None = None
        self.old: list[Cell] = []
        self.roots: dict[bytes, Entitlements] = {self.vault.state().root: Entitlements(amounts={})}

    @rule(who=WHO, amount=st.integers(1, 5 * TON))
    def earn(self, who: int, amount: int) -> None:
        self.earned[PAYEES[who]] += amount

    @rule(whom=st.sets(WHO), part=st.sampled_from([1, 2]))
    def sign(self, whom: set[int], part: int) -> None:
        """The next order, when no other is under way: pushes a part of what is owed."""
        if self.under_way is not None:
            return
        owed = {p: self.earned[p] - self.pushed[p] - self.claimed[p] for p in PAYEES}
        pushes = {PAYEES[i]: owed[PAYEES[i]] // part for i in whom if owed[PAYEES[i]] // part}
        left = {payee_of(p): owed[p] - pushes.get(p, 0) for p in PAYEES}
        after = Entitlements(amounts={payee: amount for payee, amount in left.items() if amount})
        messages = tuple(OutMessage(destination=payee_of(p), amount=Nanotons(n)) for p, n in pushes.items())
        order = Order(messages=messages, root=after.root, held=sum(owed.values()))
        self.under_way = self.vault.sign(order), pushes, after

    @rule()
    def deliver(self) -> None:
        """The order arrives; refused or without effect, it stays under way until it is dead."""
        if self.under_way is None:
            return
        message, _, after = self.under_way
        seqno = self.vault.state().seqno
        outcome = self.try_order(message)
        if outcome is None or self.vault.state().seqno == seqno:
            return
        for out in outcome.transaction.outgoing:
            payee = next(p for p in PAYEES if payee_of(p) == out.destination)
            self.pushed[payee] += out.value
        self.roots[after.root] = after
        self.old.append(message)
        self.under_way = None

    @rule()
    def give_up(self) -> None:
        """Past its time the order is dead; the chain refuses it for ever."""
        if self.under_way is None:
            return
        self.vault.now += 121
        self.old.append(self.under_way[0])
        self.under_way = None

    @rule()
    def replay(self) -> None:
        for message in self.old:
            assert self.try_order(message) is None

    @rule(whom=st.sets(WHO, min_size=1), first=st.sets(WHO))
    def race(self, whom: set[int], first: set[int]) -> None:
        """Some payees claim after an order was signed and before it arrives."""
        self.sign(whom, 1)
        for who in first:
            self.claim(who)
        self.deliver()

    @rule(who=WHO)
    def claim(self, who: int) -> None:
        payee = PAYEES[who]
        after = self.roots[self.vault.state().root]
        if payee_of(payee) in after.amounts:
            self.count(payee, self.vault.claim(after, payee))

    @rule(who=WHO)
    def claim_under_every_root(self, who: int) -> None:
        payee = PAYEES[who]
        for after in self.roots.values():
            if payee_of(payee) in after.amounts:
                self.count(payee, self.vault.claim(after, payee))

    @rule(tons=st.integers(1, 10))
    def top_up(self, tons: int) -> None:
        self.vault.send(STRANGER, value=tons * TON)

    @invariant()
    def nobody_has_more_than_it_earned(self) -> None:
        for payee in PAYEES:
            assert self.pushed[payee] + self.claimed[payee] <= self.earned[payee]

    def teardown(self) -> None:
        """With money and one more anchor everybody claims the rest, to the nanoton."""
        if not hasattr(self, "vault"):
            return
        self.vault.now += 601
        self.vault.send(STRANGER, value=1000 * TON)
        owed = {payee_of(p): self.earned[p] - self.pushed[p] - self.claimed[p] for p in PAYEES}
        after = Entitlements(amounts={payee: amount for payee, amount in owed.items() if amount})
        self.vault.order(Order(messages=(), root=after.root, held=0))
        for payee in PAYEES:
            if payee_of(payee) in after.amounts:
                self.count(payee, self.vault.claim(after, payee))
            assert self.pushed[payee] + self.claimed[payee] == self.earned[payee]

    def count(self, payee: Address, outcome: Outcome) -> None:
        for out in outcome.transaction.outgoing:
            if out.operation == OP_PAID:
                self.claimed[payee] += int(out.body.begin_parse().skip_bits(32 + 64).load_coins())

    def try_order(self, message: Cell) -> Outcome | None:
        try:
            return self.vault.execute(message)
        except ExternalNotAcceptedError:
            return None


TestVaultMoney = VaultMoney.TestCase
TestVaultMoney.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
