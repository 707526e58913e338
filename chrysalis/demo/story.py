"""The demo, step by step. Each function is one step on the screen and leaves what later steps need in the Story."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from attestation.simulate import Fault
from attestation.verdict import TeeKind
from billing.money import format_ton
from billing.ton.channel import read_channel
from billing.ton.client import ChainClient
from chrysalis.demo.asking import Caller, Reply
from chrysalis.demo.screen import Screen
from chrysalis.local.hosts import HostSpec, RunningEnclave
from chrysalis.local.network import LocalNetwork
from cluster.cashier import Statement
from cluster.errors import ClusterError

PATIENCE_S = 30.0
HOSTS = (
    HostSpec(name="anna-tdx", title="Anna's host (TDX, one GPU)", tee=TeeKind.TDX, gpus=1),
    HostSpec(name="ben-snp", title="Ben's host (SEV-SNP, two GPUs)", tee=TeeKind.SEV_SNP, gpus=2, coefficient=1200),
    HostSpec(name="open", title="a host without TEE", tee=None),
)
INTRUDERS = (
    HostSpec(
        name="debug", title="a host with a debug-mode guest", tee=TeeKind.TDX, gpus=1, faults=(Fault.DEBUG_GUEST,)
    ),
    HostSpec(
        name="foreign",
        title="a host with another image",
        tee=TeeKind.SEV_SNP,
        gpus=1,
        faults=(Fault.FOREIGN_MEASUREMENT,),
    ),
)
VICTIM = HOSTS[1]
SENTENCES = (
    "Translate to French: The cat eats an apple.",
    "Translate to German: Today the man buys a red car.",
    "Translate to Spanish: We do not see the small birds.",
    "Translate to French: Three dogs do not see the horse in the garden.",
    "Summarize: Anna: Shall we meet at the station at noon? Ben: Yes, see you there.",
)
COUNTING = "Count to twenty in German."


class DemoError(ClusterError):
    """The network did not do what the demo shows it doing."""


@dataclass(slots=True)
class Story:
    """What the steps share."""

    network: LocalNetwork
    screen: Screen
    canary: str
    admitted: list[RunningEnclave] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)

    @property
    def verified(self) -> int:
        """What all verified receipts cost, nanotons."""
        return sum(reply.cost for reply in self.replies)

    def name_of(self, host: str) -> str:
        """The name of a host by its id in hex."""
        for enclave in self.network.enclaves.values():
            if enclave.host_id.hex() == host:
                return enclave.spec.name
        raise DemoError(f"host {host} answered, and nobody knows it")


def expect(holds: bool, otherwise: str) -> None:
    """Stop the demo when something it claims is not so."""
    if not holds:
        raise DemoError(otherwise)


async def show_chain(story: Story) -> None:
    """Chain, accounts, registry contract."""
    network, screen = story.network, story.screen
    screen.step("A TON devnet: real TVM, mainnet prices, answers with proofs")
    await network.start_chain()
    screen.say(f"lite-server on {network.chain.config.host}:{network.chain.config.port}, own network id")
    screen.say(f"registry contract {network.registry.to_str()}: allowed images, GPU manifests, model, prices, operator")
    screen.done()


def show_operator(story: Story) -> None:
    """Ray's head, actors, relay, gateway."""
    screen, network = story.screen, story.network
    screen.step("The operator: Ray with token authentication, relay, gateway")
    network.start_operator()
    screen.say(f"Ray dashboard {network.ray.dashboard_url}, gateway {network.ray.gateway_url} (Serve behind HAProxy)")
    screen.say(f"relay http://{network.relay_address}: a second HAProxy that checks tickets and sees ciphertext only")
    screen.done()


def show_hosts(story: Story) -> None:
    """Enclaves start, are challenged, and only then join Ray."""
    screen, network = story.screen, story.network
    screen.step("Hosts ask to join: challenge, evidence, verdict, then a Ray node")
    screen.say("simulated hardware signs byte-exact evidence under simulated vendor roots; the verifying code is the")
    screen.say("production code. Here all run as one user; on real hosts the kernel keeps Ray away from the enclave.")
    for spec in (*HOSTS, *INTRUDERS):
        enclave = network.start_enclave(spec)
        admission = network.admit(enclave)
        screen.admission(spec, admission)
        expect(admission.accepted == (spec in HOSTS), f"{spec.title}: accepted is {admission.accepted}")
        if admission.accepted:
            story.admitted.append(enclave)
        else:
            network.kill_host(spec.name)
    network.join(story.admitted)
    screen.say(f"{len(story.admitted)} Ray nodes joined; their labels are hints, the verdicts decide")
    screen.done()


def show_placement(story: Story) -> None:
    """The scheduler places the model by attested capability."""
    screen, network = story.screen, story.network
    screen.step("The scheduler places the model by attested capability")
    decision = network.place_model(hosts=2)
    for placement in decision.placements:
        screen.say(f"[green]placed[/green]  {story.name_of(placement.host_id.hex())}")
    for loss in decision.losses:
        screen.say(f"[yellow]idle  [/yellow]  {loss.name}: {loss}")
    expect(len(decision.placements) == 2, f"{len(decision.placements)} hosts were chosen, not 2")
    screen.done()


async def show_client(story: Story) -> None:
    """Payment channel, sidecar, one answer in one piece and one streamed."""
    screen, network = story.screen, story.network
    screen.step("A client verifies the hosts itself and asks, with the OpenAI SDK")
    network.start_client()
    async with await ChainClient.connect(network.chain.config) as chain:
        channel = await read_channel(chain, network.channel_terms())
    screen.say(f"payment channel {channel.address.to_str()}: {format_ton(channel.payable)} TON, the client's until it")
    screen.say("signs: each lease is paid by a cumulative voucher, which the operator redeems from the contract")
    caller = Caller(network.sidecar_url, network.plan.model_name)
    try:
        first = await caller.ask(SENTENCES[0])
        screen.say(f"> {SENTENCES[0]}")
        screen.say(f"[bold]{first.text}[/bold]   ({story.name_of(first.host)}, {first.cost} nanoton)")
        second = await caller.stream(SENTENCES[1])
        screen.say(f"> {SENTENCES[1]}   (streamed)")
        screen.say(f"[bold]{second.text}[/bold]   ({story.name_of(second.host)}, {second.cost} nanoton)")
    finally:
        await caller.close()
    expect(not second.error, f"the stream ended in {second.error}")
    expect(first.text == "Le chat mange une pomme.", f"unexpected answer {first.text!r}")
    story.replies += [first, second]
    screen.done()


async def show_load(story: Story) -> None:
    """Twenty requests at once, spread over the hosts; among them the planted strings."""
    screen, network = story.screen, story.network
    screen.step("Twenty requests at once, spread over the eligible hosts")
    caller = Caller(network.sidecar_url, network.plan.model_name)
    prompts = [SENTENCES[i % len(SENTENCES)] for i in range(16)]
    prompts += [f"Translate to German: The cat reads {story.canary}." for _ in range(4)]
    began = time.monotonic()
    try:
        replies = await caller.ask_all(prompts)
    finally:
        await caller.close()
    spread = dict.fromkeys((enclave.spec.name for enclave in story.admitted if enclave.spec.tee), 0)
    for reply in replies:
        spread[story.name_of(reply.host)] += 1
    screen.say(f"{len(replies)} answers in {time.monotonic() - began:.1f} s: {spread}; each with a verified receipt")
    expect(min(spread.values()) > 0, f"a host got nothing: {spread}")
    story.replies += replies
    await until(lambda: charged(story) == story.verified, "not every receipt was posted to the ledger")
    screen.say(f"the ledger charged {charged(story)} nanoton, the sum of the receipts that the client verified")
    screen.done()


async def show_host_loss(story: Story) -> None:
    """A host dies in the middle of a stream."""
    screen, network = story.screen, story.network
    screen.step("A host loses power in the middle of a stream")
    caller = Caller(network.sidecar_url, network.plan.model_name)
    victim = network.enclaves[VICTIM.name]

    def cut(host: str) -> None:
        if host == victim.host_id.hex():
            victim.program.process.kill()  # the enclave at once, in mid-sentence; the rest of the host follows

    try:
        ended = await asyncio.gather(*(caller.stream(COUNTING, begun=cut) for _ in range(2)))
        died = network.kill_host(VICTIM.name)
        screen.say(f"{VICTIM.title}: the enclave killed in mid-sentence, then {died} more processes: nothing is left")
        for reply in ended:
            word = f"[red]error {reply.error}[/red]" if reply.error else "[green]complete[/green]"
            screen.say(f"stream on {story.name_of(reply.host)}: {word}, {len(reply.text)} characters")
        after = await caller.ask_all(SENTENCES[:3])
    finally:
        await caller.close()
    lost = [reply for reply in ended if reply.host == victim.host_id.hex()]
    expect(
        [reply.error for reply in lost] == ["worker_lost"],
        f"the stream on the dead host ended as {[reply.error for reply in lost]}",
    )
    expect(sum(not reply.error for reply in ended) == 1, "the other stream should have gone on")
    expect(all(reply.host != victim.host_id.hex() for reply in after), "the dead host answered")
    screen.say(f"{len(after)} further requests answered by the other host; the cut stream costs nothing")
    story.replies += [reply for reply in (*ended, *after) if not reply.error]
    screen.done()


def charged(story: Story) -> int:
    """What the ledger charged the client so far, nanotons."""
    statement: Statement = story.network.billing("statement")
    tally = statement.clients.get(story.network.account)
    return tally.price if tally else 0


async def show_requests(story: Story) -> None:
    """Everything the client does, on one event loop."""
    await show_client(story)
    await show_load(story)
    await show_host_loss(story)


async def until(holds: Callable[[], bool], otherwise: str) -> None:
    """Return once `holds`; DemoError saying `otherwise` when it takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise DemoError(f"{otherwise} after {PATIENCE_S:.0f} s")
        await asyncio.sleep(0.1)
