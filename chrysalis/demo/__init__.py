"""The demonstration: a whole network on one machine, narrated."""
