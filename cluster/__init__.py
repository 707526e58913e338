"""Which attested host does what? Pure decisions, and the actors and processes that carry them out."""
