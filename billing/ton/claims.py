"""Claiming from a vault with a saved proof: needs the chain and the payee's wallet, and no operator."""

from __future__ import annotations

from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from billing.claim_proof import ClaimProof, format_address
from billing.errors import NothingToClaimError, StaleClaimError, WrongNetworkError
from billing.ton.cells import address_of, payee_of
from billing.ton.client import ChainClient
from billing.ton.proofs import AccountState
from billing.ton.vault import CLAIM_VALUE, VaultState, claim_body, parse_vault, read_vault
from billing.ton.wallet import Transfer, Wallet, pay

__all__ = ["check_claim", "send_claim"]


async def check_claim(chain: ChainClient, proof: ClaimProof) -> VaultState:
    """The vault's proved state, in which the claim is good.

    Raises:
        WrongNetworkError, WrongContractError: the proof is for another network, or its vault is none.
        StaleClaimError: the vault holds another root.
        NothingToClaimError: it was claimed already.
        ChainError: the chain could not be asked.
    """
    if proof.network_id != chain.config.network_id:
        raise WrongNetworkError(chain.config.network_id, proof.network_id)
    vault = await read_vault(chain, address_of(proof.vault))
    if vault.root != proof.root:
        raise StaleClaimError(proof.root.hex(), vault.root.hex())
    if proof.index in vault.claimed:
        raise NothingToClaimError(format_address(proof.payee), "the vault paid this claim")
    return vault


async def send_claim(
    chain: ChainClient, proof: ClaimProof, key: Ed25519PrivateKey, *, now: datetime, timeout_s: float = 60.0
) -> int:
    """Claim with the payee's wallet (V5); returns the nanotons the vault paid, once that is proved.

    Raises:
        NothingToClaimError: the wallet is not the payee's; and all that `check_claim` raises, before anything is sent.
        StaleClaimError: an order of the operator came first; fetch a newer proof.
        TimeoutError: the vault has not paid in time: it may lack the money. The same proof is good again.
    """
    wallet = Wallet(public_key=key.public_key().public_bytes_raw(), network_id=chain.config.network_id)
    if payee_of(wallet.address) != proof.payee:
        own = format_address(payee_of(wallet.address))
        raise NothingToClaimError(own, f"the proof is for {format_address(proof.payee)}: claim with that wallet's key")
    await check_claim(chain, proof)
    address = address_of(proof.vault)
    body = claim_body(proof.index, proof.entitled, proof.path)
    await pay(chain, wallet, key, [Transfer(destination=address, amount=CLAIM_VALUE, body=body)], now=now)

    def settled(state: AccountState) -> bool:
        vault = parse_vault(state)
        return vault.root != proof.root or proof.index in vault.claimed

    vault = parse_vault(await chain.wait_for(address, settled, timeout_s=timeout_s))
    if vault.root != proof.root:
        raise StaleClaimError(proof.root.hex(), vault.root.hex())
    return proof.entitled
