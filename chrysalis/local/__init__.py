"""A whole network on one machine, with real parts at every joint: for `make demo` and the end-to-end tests."""
