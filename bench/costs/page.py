"""The page docs/COSTS.md: every figure measured, in tables, and those that were asked for compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.costs.channels import ChannelBench
from bench.costs.governance import RegistryBench, hand_over, vault_owner
from bench.costs.payouts import HighloadBench, VaultBench, claimants, deploy_wallet, payments, wallet_payout
from bench.costs.world import TON, Cost, World

COUNTS = (1, 16, 64, 128, 250)
CLAIMANTS = (1, 16, 256, 1024, 4096)
RECORD_MAX = 1023  # payees in a record that one message can deploy
OTHERS, ENTRIES = 100, 50  # other operators, and entries in every other list, of the full registry

HEAD = """\
# What the chain costs

Written by `make costs`, compared by `tests/bench/test_costs.py`. Every message is built by the code that sends it in
production, and executed in the real TVM at the prices of mainnet's configuration (`billing/ton/config`). Keys and times
are fixed, so the figures are the same on every machine. A figure is all that the chain takes, from every account that a
message touches and through all its hops, in TON; gas is the sum over all of them. Rent is in it only where a row is
marked with *: those come a day after the row before.
"""


@dataclass(slots=True)
class Page:
    """The text so far, and which figures are above what was asked for."""

    text: str = HEAD
    asked: list[tuple[str, int, int]] = field(default_factory=list)  # what, fees, bound; nanotons

    @property
    def missed(self) -> list[str]:
        """Figures above their bound."""
        return [f"{what}: {ton(got)} TON, asked {ton(bound)}" for what, got, bound in self.asked if got > bound]

    def ask(self, what: str, got: int, bound: int) -> None:
        """Compare a figure."""
        self.asked.append((what, got, bound))

    def section(self, title: str, words: str = "") -> None:
        """Begin a section."""
        self.text += f"\n## {title}\n\n" + (f"{words}\n\n" if words else "")

    def table(self, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """Add a table."""
        lines = [head, tuple("---" for _ in head), *rows]
        self.text += "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ton(nanotons: float) -> str:
    """Six decimals: the seventh is a thousandth of the cheapest operation."""
    return f"{nanotons / TON:.6f}"


@contextmanager
def new_world() -> Iterator[World]:
    """A chain of its own."""
    world = World()
    try:
        yield world
    finally:
        world.close()


def measure() -> Page:
    """Measure everything."""
    page = Page()
    parts: list[Callable[[Page, World], None]] = [_payouts, _registry, _claims, _channels, _owners, _first]
    body = Page(text="")
    for part in parts:
        with new_world() as world:
            part(body, world)
    page.asked = body.asked
    page.section("What was asked for")
    rows = [(what, ton(got), ton(bound), "yes" if got <= bound else "**no**") for what, got, bound in body.asked]
    page.table(("what", "TON", "at most", "met"), rows)
    page.text += body.text
    return page


def _payouts(page: Page, world: World) -> None:
    page.section(
        "Payouts",
        "One TON to each of n accounts that do not exist yet, by one external message. The vault's include the anchor. "
        "The highload wallet\ntakes at most 254 messages; the settler sends at most 128 payouts a batch.",
    )
    vault, highload = VaultBench(world), HighloadBench(world)
    rows = []
    for count in COUNTS:
        costs = (
            vault.order(payments(count, f"vault {count}")),
            highload.send(payments(count, f"highload {count}")),
            wallet_payout(world, count),
        )
        each = [f"{ton(cost.fees / count)} ({cost.gas} gas)" for cost in costs]
        rows.append((str(count), *each))
        if count >= 64:
            page.ask(f"payout by vault, {count} at a time", costs[0].fees // count, 700_000)
            page.ask(f"payout by highload wallet v3, {count} at a time", costs[1].fees // count, 1_000_000)
    page.table(("n", "vault, a payout", "highload v3, a payout", "wallet V5, a payout"), rows)


def _registry(page: Page, world: World) -> None:
    """Two registries in worlds of their own: one operator, and full lists."""
    with new_world() as other:
        small, full = HighloadBench(world), HighloadBench(other)
        alone = RegistryBench(world, small.wallet.address)
        crowded = RegistryBench(other, full.wallet.address, others=OTHERS, entries=ENTRIES)
        _anchors(page, [("one operator", alone, small), (f"{OTHERS + 1} operators", crowded, full)])
        page.section(
            "Registry: the owner's messages",
            f"From the owner's wallet V5, to a registry that names one operator and nothing else, and to one with "
            f"{OTHERS + 1} operators and\n{ENTRIES} entries in every other list.",
        )
        beside = dict(crowded.orders())
        rows = [
            (name, ton(cost.fees), str(cost.gas), ton(beside[name].fees), str(beside[name].gas))
            for name, cost in alone.orders()
        ]
    page.table(("operation", "TON", "gas", "full, TON", "full, gas"), rows)


def _anchors(page: Page, registries: list[tuple[str, RegistryBench, HighloadBench]]) -> None:
    page.section(
        "Anchors",
        "A vault's order anchors by itself. A registry's anchor rides on a batch of the highload wallet: what it adds "
        "to 64 payouts. It pays for\nthe path to the operator's own anchor, whatever else the registry holds.",
    )
    with new_world() as world:
        alone = VaultBench(world).order(())
    page.ask("anchor, by an order of the vault", alone.fees, 1_700_000)
    rows = [("vault, an order without payouts", ton(alone.fees), str(alone.gas))]
    for name, registry, treasury in registries:
        registry.anchor(treasury, 1)
        plain = treasury.send(payments(64, "plain"))
        riding = registry.anchor(treasury, 2, payments(64, "riding"))
        own = registry.anchor(treasury, 3)
        rows.append((f"registry, {name}, with a batch", ton(riding.fees - plain.fees), str(riding.gas - plain.gas)))
        rows.append((f"registry, {name}, by a message of its own", ton(own.fees), str(own.gas)))
    page.table(("anchor", "TON", "gas"), rows)


def _claims(page: Page, _: World) -> None:
    page.section(
        "Claims",
        "A payee claims its due from the vault, from its own wallet V5: all fees of both. The record of claims is what "
        "makes it dearer when all\nothers have claimed before.",
    )
    rows = []
    for count in CLAIMANTS:
        others = claimants(count - 1)
        first, late = _claim(others, {}), None
        if 0 < len(others) <= RECORD_MAX:
            late = _claim(others, others)
        worst = max(cost.fees for cost in (first, late) if cost is not None)
        page.ask(f"claim, {count} payees" + (", all others claimed before" if late else ""), worst, 12_000_000)
        rows.append(
            (str(count), f"{ton(first.fees)} ({first.gas} gas)", f"{ton(late.fees)} ({late.gas} gas)" if late else "-")
        )
    page.table(("payees", "first claim of all", "all others claimed before"), rows)


def _claim(others: dict[bytes, int], claimed: dict[bytes, int]) -> Cost:
    with new_world() as world:
        return VaultBench(world, claimed).claim(others)


def _channels(page: Page, world: World) -> None:
    page.section("Payment channels and deposits", "The client's messages come from its wallet V5.")
    channel, highload = ChannelBench(world), HighloadBench(world)
    rows = [("deposit to a highload treasury", channel.deposit(highload)), *channel.operations()]
    for name, bound in (("top-up", 3_600_000), ("redeem", 8_000_000)):
        page.ask(f"payment channel, {name}", dict(rows)[name].fees, bound)
    page.ask("deposit to a treasury", rows[0][1].fees, 3_600_000)
    page.table(("operation", "TON", "gas", "transactions"), [_row(name, cost) for name, cost in rows])


def _owners(page: Page, world: World) -> None:
    page.section("Owners of vault and registry", "From wallets V5.")
    rows = [(f"vault: {name}", cost) for name, cost in vault_owner(world, VaultBench(world))]
    with new_world() as other:
        rows += [(f"vault: {name}", cost) for name, cost in hand_over(other, VaultBench(other).address)]
    with new_world() as other:
        registry = RegistryBench(other, HighloadBench(other).wallet.address)
        rows += [(f"registry: {name}", cost) for name, cost in hand_over(other, registry.address)]
    page.table(("operation", "TON", "gas", "transactions"), [_row(name, cost) for name, cost in rows])


def _first(page: Page, world: World) -> None:
    page.section(
        "First messages",
        "With code and first data. A wallet's makes one payment, a contract's comes from a new wallet V5.",
    )
    highload = HighloadBench(world)
    rows = [("highload wallet v3", highload.deployment), ("vault", VaultBench(world).deployment)]
    with new_world() as other:
        rows.append(("registry", RegistryBench(other, highload.wallet.address).deployment))
    rows.append(("wallet V5", deploy_wallet(world)))
    page.table(("contract", "TON", "gas", "transactions"), [_row(name, cost) for name, cost in rows])


def _row(name: str, cost: Cost) -> tuple[str, str, str, str]:
    return name, ton(cost.fees), str(cost.gas), str(cost.steps)
