"""The measured program on a host: opens sealed requests, runs the engine, counts, seals the answer, signs the receipt.

A process of its own that never imports ray. Start it with `python -m enclave --config FILE`.
"""
