"""`python -m pipeline COMMAND`, the same as `foundry COMMAND`."""

from pipeline.cli import main

main()
