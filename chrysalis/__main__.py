"""`python -m chrysalis`: the same as the `chrysalis` command."""

from chrysalis.cli import main

main()
