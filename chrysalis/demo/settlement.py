"""The demo's last steps: pay out, compare chain and books, look for leaked prompts, and sum up."""

import psutil
from pytoniq_core import Address

from billing.batch import BatchState, PayoutState
from billing.entitlements import Entitlements
from billing.entries import channel_account
from billing.money import format_ton
from billing.tallies import Tally
from billing.ton.cells import payee_of
from billing.ton.channel import read_channel
from billing.ton.client import ChainClient
from billing.ton.registry import read_registry
from billing.ton.vault import read_vault
from billing.totals import PayeeTotal
from chrysalis.demo.canary import scan
from chrysalis.demo.story import SENTENCES, Story, charged, expect, until
from cluster.cashier import Statement
from cluster.settlement_config import SenderKind

TREASURIES = {SenderKind.HIGHLOAD: "highload wallet v3", SenderKind.VAULT: "the vault"}


async def show_settlement(story: Story) -> Statement:
    """Everybody who earned is paid in one batch; chain and books agree to the nanoton."""
    screen, network = story.screen, story.network
    screen.step("Settlement in one batch, read back from the chain with proofs")
    await until(lambda: charged(story) == story.verified, "not every receipt was posted to the ledger")
    await show_redemption(story)
    report = network.billing("settle")
    statement: Statement = network.billing("statement")
    books = report.reconciliation
    expect(books.difference == 0, f"chain and books differ by {books.difference} nanoton")
    expect(statement.imbalance == 0, f"the ledger is out of balance by {statement.imbalance}")
    paid = [batch for batch in statement.batches if batch.state is BatchState.CONFIRMED]
    expect(len(paid) == 1, f"{len(paid)} batches were confirmed, not 1")
    kind = TREASURIES[network.plan.sender]
    screen.say(f"{kind} paid {len(paid[0].payouts)} owners in transaction {paid[0].transaction.hex()}")
    screen.say(
        f"treasury on chain {books.chain} = ledger {books.books} nanoton; ledger imbalance {statement.imbalance}"
    )
    async with await ChainClient.connect(network.chain.config) as chain:
        for enclave in story.admitted:
            on_chain = (await chain.account(Address(enclave.payee))).balance
            booked = _total(statement, enclave.payee).paid
            expect(on_chain == booked, f"{enclave.spec.name} has {on_chain} on chain, {booked} in the books")
        registry = await read_registry(chain, network.registry)
        if network.plan.sender is SenderKind.VAULT:
            await show_vault(story, chain)
    epoch, root = registry.anchor_of(network.treasury.address)
    expect(epoch > 0, "no epoch was anchored")
    screen.say(f"anchored in the registry: epoch {epoch}, root {root.hex()}")
    screen.done()
    return statement


async def show_vault(story: Story, chain: ChainClient) -> None:
    """The vault took the operator's order, and it left nobody anything to claim: everybody was paid by it."""
    vault = await read_vault(chain, story.network.treasury.address)
    expect(vault.seqno > 0, "the vault took no order")
    expect(vault.root == Entitlements(amounts={}).root, "somebody who was paid may claim as well")
    story.screen.say(
        f"the vault took {vault.seqno} order(s) of its hot key: each pays, and sets the root by which owners can claim "
        "without the operator; now all are paid, and nothing is left to claim"
    )


async def show_redemption(story: Story) -> None:
    """What the client signed is in the treasury, and no more than that."""
    screen, network = story.screen, story.network
    terms = network.channel_terms()
    owing = channel_account(terms.channel.account)
    await until(lambda: owing not in network.billing("statement").balances, "the vouchers were not redeemed")
    async with await ChainClient.connect(network.chain.config) as chain:
        state = await read_channel(chain, terms)
    expect(state.redeemed >= story.verified, f"{state.redeemed} redeemed, {story.verified} charged")
    screen.say(
        f"vouchers redeemed: {format_ton(state.redeemed)} TON; {format_ton(state.payable)} TON are the client's still"
    )


def show_privacy(story: Story) -> int:
    """Search everything outside enclaves and client for the prompts; returns the number of hits."""
    screen, network = story.screen, story.network
    screen.step("Privacy: prompts searched in all files and everybody else's memory")
    trusted = {network.client_pid} | {pid for enclave in story.admitted for pid in _family(enclave.program.pid)}
    found = scan(
        [story.canary.encode(), *(sentence.encode() for sentence in SENTENCES[:2])],
        folders=[network.folder],
        processes=[process for process in network.supervisor.processes() if process.pid not in trusted],
    )
    screen.say(
        f"{found.files} files ({found.file_bytes / 1e6:.0f} MB) and the memory of {found.processes} processes "
        f"({found.memory_bytes / 1e9:.1f} GB): {len(found.hits)} hits"
    )
    if found.unreadable:
        screen.say(f"not searched, because unreadable here: {len(found.unreadable)}", style="yellow")
    for hit in found.hits:
        screen.say(f"hit: {hit}", style="red")
    expect(not found.hits, "a prompt was found where none may be")
    screen.done()
    return len(found.hits)


def show_summary(story: Story, statement: Statement, hits: int) -> None:
    """The final tables."""
    screen, network = story.screen, story.network
    screen.step("What everybody has")
    proved = {record.host_id: record.capability for record in network.fleet().hosts if record.capability}
    work, money = [], []
    for enclave in story.admitted:
        spec, tally = enclave.spec, statement.hosts.get(enclave.host_id, Tally())
        total = _total(statement, enclave.payee)
        work.append(
            (
                spec.name,
                (spec.tee or "none") + (f" + {spec.gpus} GPU" if spec.gpus else ""),
                proved[enclave.host_id].tcb_status,
                str(tally.requests),
                str(tally.prompt_tokens + tally.completion_tokens),
            )
        )
        money.append(
            (
                spec.name,
                format_ton(total.earned),
                format_ton(total.paid),
                _transaction(statement, enclave.payee),
            )
        )
    screen.table("Hosts: evidence and work", ("host", "evidence", "TCB status", ">requests", ">tokens"), work)
    screen.table("Hosts: money, TON", ("host", ">earned", ">paid on chain", "transaction"), money)
    client = statement.clients[network.account]
    screen.table(
        "Client and books",
        ("what", ">value"),
        [
            ("client account", network.account.hex()[:16]),
            ("requests charged", str(client.requests)),
            ("charged, TON", format_ton(client.price)),
            ("sum of the receipts the client verified, TON", format_ton(story.verified)),
            ("operator's fees, TON", format_ton(statement.balances["operator:fees"])),
            ("ledger imbalance, nanoton", str(statement.imbalance)),
            ("prompts found outside enclaves and client", str(hits)),
        ],
    )


def _family(pid: int) -> set[int]:
    """A process and all below it; vLLM's engine is a child of the enclave. Empty when it is gone."""
    try:
        return {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    except psutil.NoSuchProcess:
        return set()


def _total(statement: Statement, payee: str) -> PayeeTotal:
    wanted = payee_of(Address(payee))
    return next(
        (total for total in statement.payees if total.payee == wanted), PayeeTotal(payee=wanted, earned=0, paid=0)
    )


def _transaction(statement: Statement, payee: str) -> str:
    wanted = payee_of(Address(payee))
    hashes = [
        batch.transaction.hex()[:16]
        for batch in statement.batches
        if any(payout.payee == wanted and payout.state is PayoutState.PAID for payout in batch.payouts)
    ]
    return ", ".join(hashes) or "-"
