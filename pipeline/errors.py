"""Errors caused by the input. The command line prints them, one line per finding, without a traceback."""


class FoundryError(Exception):
    """The input is invalid; the message says where, what was found, what was wanted, and what to do."""

    exit_code = 2


class CheckFailedError(FoundryError):
    """The input was read but does not pass a check; the reports were written before this is raised."""

    exit_code = 3


class ArtefactError(FoundryError):
    """A file of an artefact is missing, damaged, or inconsistent with the others."""
