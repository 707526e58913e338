"""The chain: one code path through ADNL lite-servers, for the devnet as for the live networks."""
