"""The `chrysalis` command, and whole networks on one machine for the demo and the end-to-end tests."""
