"""`chrysalis demo`: checks the machine, runs the story, and leaves nothing behind."""

import asyncio
import secrets
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from billing.errors import BillingError, ChainError
from billing.tariff import Tariff
from chrysalis.demo.preflight import check_machine
from chrysalis.demo.screen import Screen
from chrysalis.local.network import LocalNetwork, NetworkPlan
from cluster.errors import ClusterError
from cluster.settlement_config import SenderKind

MODEL = Path(__file__).resolve().parents[2] / "examples" / "demo_model" / "model"
MODEL_NAME = "demo-translator"
TARIFF = Tariff(prompt_price=5_000_000_000, completion_price=20_000_000_000)  # nanotons per million tokens
CONTEXT = 512
EXIT_FAILED, EXIT_CANNOT_START, EXIT_INTERRUPTED = 1, 2, 130


def run_demo(*, engine: str, sender: SenderKind, keep: bool, base_port: int, work_dir: Path | None) -> int:
    """Run the whole story. Returns the exit status: 0 shown, 1 something was not as it should be, 2 cannot start."""
    console = Console()
    folder = work_dir.resolve() if work_dir else None
    try:
        check_machine(engine=engine, base_port=base_port, model=MODEL, folder=folder)
        with _stop_signals():
            return _run(Screen(console), _plan(engine, sender, base_port, folder), keep=keep)
    except KeyboardInterrupt:
        console.print("\nInterrupted; everything the demo started has been ended.")
        return EXIT_INTERRUPTED
    except ClusterError as error:
        console.print(f"[red]The demo cannot run:[/red] {error}", highlight=False, soft_wrap=True)
        return EXIT_CANNOT_START


def _plan(engine: str, sender: SenderKind, base_port: int, folder: Path | None) -> NetworkPlan:
    return NetworkPlan(
        base_port=base_port,
        model=MODEL,
        model_name=MODEL_NAME,
        tariff=TARIFF,
        context=CONTEXT,
        engine=engine,
        sender=sender,
        folder=folder,
    )


def _run(screen: Screen, plan: NetworkPlan, *, keep: bool) -> int:
    network = LocalNetwork(plan)
    status = EXIT_FAILED
    try:
        _tell(network, screen)
        if keep:
            _keep(network, screen)
        status = 0
    except (ClusterError, BillingError, ChainError, TimeoutError, OSError) as error:
        screen.say(f"[red]stopped:[/red] {type(error).__name__}: {error}")
        screen.console.print(_logs(network), highlight=False, markup=False)
    except Exception:  # noqa: BLE001  told in full on the screen, and everything is ended in any case
        screen.console.print(traceback.format_exc(), highlight=False, markup=False)
        screen.console.print(_logs(network), highlight=False, markup=False)
    finally:
        left = network.stop()
        for process in left:
            screen.say(f"[red]could not be ended:[/red] {process}")
    screen.console.print(f"\nEverything started here has been ended. {screen.elapsed_s:.0f} s in all.", highlight=False)
    return EXIT_FAILED if left else status


def _tell(network: LocalNetwork, screen: Screen) -> None:
    from chrysalis.demo import settlement, story

    tale = story.Story(network=network, screen=screen, canary=f"canary{secrets.token_hex(8)}")
    asyncio.run(story.show_chain(tale))
    story.show_operator(tale)
    story.show_hosts(tale)
    story.show_placement(tale)
    asyncio.run(story.show_requests(tale))
    statement = asyncio.run(settlement.show_settlement(tale))
    hits = settlement.show_privacy(tale)
    settlement.show_summary(tale, statement, hits)


def _keep(network: LocalNetwork, screen: Screen) -> None:
    """Say how to talk to the network, and wait for Ctrl-C."""
    url, model = network.sidecar_url, network.plan.model_name
    messages = '[{"role": "user", "content": "Translate to French: The dog sees a bird."}]'
    screen.console.print(
        f"""
The network stays up until Ctrl-C. Talk to it:

  curl {url}/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{model}", "messages": {messages}}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}", api_key="any")
  print(client.chat.completions.create(model="{model}", messages=[
      {{"role": "user", "content": "Translate to German: The woman reads a book."}}]).choices[0].message.content)

  what the client verified   {url}/attestation
  receipts it holds          {url}/receipts
  the fleet                  {network.ray.gateway_url}/v1/hosts
  Ray dashboard              {network.ray.dashboard_url}   (token: {network.ray.token_file})
  logs                       {network.folder / "logs"}
""",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    try:
        signal.pause()
    except KeyboardInterrupt:
        screen.console.print("\nEnding everything ...")


@contextmanager
def _stop_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: in order. Also where a shell started it with SIGINT ignored."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _logs(network: LocalNetwork) -> str:
    """The ends of the logs of enclaves, client and devnet; Ray's own say nothing that helps here."""
    parts = []
    for log in sorted((network.folder / "logs").glob("*.log")):
        if log.stem.startswith(("enclave", "client", "devnet")):
            lines = log.read_text(errors="replace").splitlines()[-5:]
            parts.append(f"--- {log.name}\n" + "\n".join(lines))
    return "\n".join(parts)
