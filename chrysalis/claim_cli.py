"""`chrysalis claim`: a host's owner takes its earnings from the operator's vault, also when the operator is gone.

Exit code 0: done; 1: refused; 2: could not tell.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from billing.claim_proof import PROOF_BYTES_MAX, ClaimProof
from chrysalis.key_access import PasswordFile, open_signing_key
from chrysalis.money import Key, progress

if TYPE_CHECKING:
    from billing.ton.client import ChainConfig

app = typer.Typer(help="Claim earnings from the operator's vault, by a proof that you keep.", no_args_is_help=True)

Proof = Annotated[Path, typer.Argument(help="The proof that `claim fetch` saved.")]
Chain = Annotated[
    Path, typer.Option("--chain", help="YAML: host, port, public_key, network_id (and second) of a lite-server.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

REFUSED, UNKNOWN = 1, 2
FETCH_TIMEOUT_S = 15


@app.command()
def fetch(
    payee: Annotated[str, typer.Argument(help="Address of your wallet, 0:<hex>.")],
    gateway: Annotated[str, typer.Option(help="The operator's gateway, http(s)://host:port.")],
    out: Annotated[Path, typer.Option(help="Where to keep the proof. Fetch daily: each settlement makes a new one.")],
    as_json: AsJson = False,
) -> None:
    """Fetch and check the proof of what you may claim now, and keep it."""
    with _exit_codes():
        with progress(f"asking {gateway}"):
            proof = ClaimProof.parse(asyncio.run(_fetch(gateway, payee)))
        _check_payee(proof, payee)
        draft = out.with_name(out.name + ".draft")
        draft.write_text(proof.to_json() + "\n")
        draft.replace(out)
    _say(proof, as_json, saved=str(out))


@app.command()
def check(path: Proof, chain: Chain, as_json: AsJson = False) -> None:
    """Tell whether the proof is good in the vault's proved state now."""
    from billing.ton.claims import check_claim
    from billing.ton.client import ChainClient

    async def look() -> None:
        async with await ChainClient.connect(_chain_config(chain)) as client:
            await check_claim(client, proof)

    with _exit_codes():
        proof = _read(path)
        with progress("asking the chain"):
            asyncio.run(look())
    _say(proof, as_json, outcome="good")


@app.command()
def send(
    path: Proof,
    chain: Chain,
    key: Key,
    password_file: PasswordFile = None,
    *,
    timeout_s: Annotated[float, typer.Option(help="How long to wait for the vault's payment.", min=1)] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Claim with your own wallet; 0.02 TON are attached, what the gas leaves of it comes back."""
    from billing.ton.claims import send_claim
    from billing.ton.client import ChainClient

    async def claim() -> int:
        async with await ChainClient.connect(config) as client:
            return await send_claim(client, proof, private, now=datetime.now(UTC), timeout_s=timeout_s)

    with _exit_codes():
        proof, config = _read(path), _chain_config(chain)
        private = open_signing_key(key, password_file, network_id=config.network_id)
        with progress("waiting until the vault has paid"):
            paid = asyncio.run(claim())
    _say(proof, as_json, outcome="paid", paid=paid)


async def _fetch(gateway: str, payee: str) -> str:
    import aiohttp

    from billing.errors import ChainUnreachableError, NothingToClaimError

    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{gateway.rstrip('/')}/v1/claims/{payee}") as answer,
        ):
            body = (await answer.content.read(PROOF_BYTES_MAX + 1)).decode(errors="replace")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ChainUnreachableError(f"asking {gateway}", f"{type(error).__name__}: {error}") from error
    if answer.status in {400, 404, 409}:
        raise NothingToClaimError(payee, f"the gateway answers {answer.status}: {body[:500]}")
    if answer.status != 200:
        raise ChainUnreachableError(f"asking {gateway}", f"status {answer.status}")
    return body


def _check_payee(proof: ClaimProof, payee: str) -> None:
    from billing.claim_proof import parse_address
    from billing.errors import MalformedRecordError

    if proof.payee != parse_address(payee):
        raise MalformedRecordError("claim proof", "the gateway sent the proof of another payee")


def _chain_config(path: Path) -> "ChainConfig":
    import yaml

    from cluster.config import parse_chain

    return parse_chain(yaml.safe_load(path.read_text(encoding="utf-8")))


def _read(path: Path) -> ClaimProof:
    with path.open(encoding="utf-8") as file:
        return ClaimProof.parse(file.read(PROOF_BYTES_MAX + 1))


@contextmanager
def _exit_codes() -> Iterator[None]:
    import yaml

    from billing.errors import BillingError, ChainError
    from cluster.errors import ConfigError

    try:
        yield
    except BillingError as error:
        typer.echo(f"refused: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(REFUSED) from error
    except (ChainError, ConfigError, OSError, ValueError, TypeError, TimeoutError, yaml.YAMLError) as error:
        typer.echo(f"could not tell: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(UNKNOWN) from error


def _say(proof: ClaimProof, as_json: bool, **more: object) -> None:
    document = {**more, **json.loads(proof.to_json())}
    if as_json:
        typer.echo(json.dumps(document))
        return
    for name, value in document.items():
        if name != "path":
            typer.echo(f"{name}: {value}")
