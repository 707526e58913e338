"""An append-only log of what governance allows and denies, signed, and checked by everybody who reads it."""
