"""Ray actors of the operator: each wraps a plain asyncio class and adds no rule of its own."""
