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


TWO_HOSTS = """
set -e
unshare --net sleep infinity & second=$!
trap 'kill $second' EXIT
inside="nsenter --target $second --net"
until $inside true && [ "$(readlink /proc/$second/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
ip link add one type veth peer name two
ip link set two netns $second
ip addr add 10.77.0.1/24 dev one && ip link set one up && ip link set lo up
$inside ip addr add 10.77.0.2/24 dev two && $inside ip link set two up && $inside ip link set lo up
HOST=1 ADDRESS=10.77.0.1 GLOO_SOCKET_IFNAME=one "$@" & first=$!
HOST=0 ADDRESS=10.77.0.2 GLOO_SOCKET_IFNAME=two $inside "$@" & other=$!
wait $first
wait $other
"""


def on_two_hosts() -> tuple[str, ...]:
    """Before a command that shall run on two machines at once, with one network between them and the same disks.

    The variable ADDRESS is the machine's own, the first's is 10.77.0.1; HOST is 1 on the first and 0 on the other.
    """
    return (*NO_NETWORK, "bash", "-c", TWO_HOSTS, "two hosts")


needs_two_hosts = pytest.mark.skipif(
    not _is_allowed((*NO_NETWORK, "ip", "link", "add", "one", "type", "veth", "peer", "name", "two")),
    reason="no pairs of network devices here",
)
