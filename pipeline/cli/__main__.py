"""`python -m pipeline.cli`: the command `concord`, for launchers, which know an interpreter and no PATH."""

from pipeline.cli.app import main

main()
