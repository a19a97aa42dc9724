"""Rooms of their own for commands: another view of the disks, or no network. Linux, where the system allows it."""

import subprocess

import pytest

ROOM = ("unshare", "--map-root-user", "--mount")
NO_NETWORK = ("unshare", "--map-root-user", "--net")


def _is_allowed(command: tuple[str, ...]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_mounts = pytest.mark.skipif(
    not _is_allowed((*ROOM, "mount", "-t", "tmpfs", "none", "/mnt")), reason="no mounts in namespaces here"
)
HAS_NETWORK_ROOMS = _is_allowed((*NO_NETWORK, "true"))
needs_network_rooms = pytest.mark.skipif(not HAS_NETWORK_ROOMS, reason="no network namespaces here")


def read_only(folder: str) -> tuple[str, ...]:
    """Before a command that shall find `folder`, and all below it, read-only."""
    return (
        *ROOM,
        "sh",
        "-c",
        'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0" && exec "$@"',
        folder,
    )


def own_mounts() -> tuple[str, ...]:
    """Before a command that shall mount disks which nobody else sees."""
    return ROOM


def without_network() -> tuple[str, ...]:
    """Before a command that shall find a loopback device and no other; nothing where that cannot be had."""
    if not HAS_NETWORK_ROOMS:
        return ()
    bring_up = (
        "import fcntl, os, socket, struct, sys; "
        "request = struct.pack('16sh', b'lo', 1); "
        "fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, request); "
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return (*NO_NETWORK, "python3", "-c", bring_up)
