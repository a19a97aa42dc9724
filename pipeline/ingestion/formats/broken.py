"""The error of an image that cannot be used."""


class BrokenImageError(Exception):
    """An image cannot be used. The message is the reason for its quarantine and the same on every machine."""
