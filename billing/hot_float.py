"""How much a treasury's hot key may command: a cap above which money belongs with the cold owner, a floor for refills.

Pure: balances in, a report out. Amounts are nanotons.
"""

from __future__ import annotations

from dataclasses import dataclass

from billing.money import Nanotons, check_nanotons

__all__ = ["FloatLimits", "FloatReport"]

NOTHING = Nanotons(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatLimits:
    """What a treasury should hold. Without a cap nothing is a surplus, with a floor of 0 nothing is short."""

    cap: Nanotons | None = None
    refill_below: Nanotons = NOTHING

    def __post_init__(self) -> None:
        check_nanotons(self.refill_below, "refill_below")
        if self.cap is not None and check_nanotons(self.cap, "float_cap") <= self.refill_below:
            raise ValueError(f"float_cap {self.cap} must be above refill_below {self.refill_below}")

    def report(self, *, balance: int, own: int, needed: int) -> FloatReport:
        """Compare a treasury with its limits.

        Args:
            balance: proved on the chain.
            own: the operator's capital in the books; nothing else may be moved to the owner.
            needed: what the batches under way and planned take, their fees included.
        """
        surplus = 0 if self.cap is None else max(0, balance - needed - self.cap)
        return FloatReport(
            balance=balance,
            needed=needed,
            surplus=surplus,
            movable=max(0, min(surplus, own)),
            refill=max(0, self.refill_below - balance, needed - balance),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatReport:
    """A treasury beside its limits."""

    balance: int
    needed: int  # of batches under way and planned
    surplus: int  # above the cap, with what batches need set aside
    movable: int  # of that, the operator's own: to be moved to the cold owner
    refill: int  # to be sent to the treasury, 0 when it has enough

    def alarms(self) -> tuple[str, ...]:
        """What an operator has to do, in words; nothing when all is well."""
        said = []
        if self.refill:
            said.append(f"the treasury holds {self.balance} nanoton: send it at least {self.refill} more")
        if self.surplus:
            rest = self.surplus - self.movable
            others = f"; {rest} more are clients' and payees', settle them or raise float_cap" if rest else ""
            said.append(
                f"the treasury is {self.surplus} nanoton above its cap: move {self.movable} to the owner{others}"
            )
        return tuple(said)
