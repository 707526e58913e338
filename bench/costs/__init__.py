"""What every operation on the chain costs, at mainnet prices in the real TVM: `python -m bench.costs`."""
