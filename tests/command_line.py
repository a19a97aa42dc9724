"""Commands in this process, whose errors are raised."""

from pipeline import cli


def foundry(*arguments: object) -> None:
    """Run `foundry ARGUMENTS`."""
    cli.foundry.main([str(argument) for argument in arguments], standalone_mode=False)
