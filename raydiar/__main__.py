"""`python -m raydiar` is the `raydiar` command."""

from raydiar.cli import main

main()
