"""Errors whose cause is the input: shown as one line a finding, without a traceback."""


class FoundryError(Exception):
    """The input is at fault; the message says where, what was found and what was wanted."""

    exit_code = 2


class CheckFailedError(FoundryError):
    """The input was read and judged not good enough; the evidence was written first."""

    exit_code = 3


class ArtefactError(FoundryError):
    """A file of an artefact is missing, damaged, or does not fit the others."""
