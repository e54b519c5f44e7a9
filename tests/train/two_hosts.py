"""Two hosts on this machine: what is started on them shares files and a network, but no memory and no local disk."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

INTERFACE = "meap0"
"""The network interface of each host."""


@dataclass(frozen=True)
class Host:
    """A network namespace, and what is mounted in the mount namespace of each command."""

    namespace: str
    address: str
    local_disk: Path
    """The same name on both hosts, other contents."""

    def command(self, *command: str) -> list[str]:
        """`command`, to be run on this host."""
        own = self.local_disk.with_name(self.namespace)
        own.mkdir(exist_ok=True)
        mounts = f"mount -t tmpfs tmpfs /dev/shm && mount --bind '{own}' '{self.local_disk}'"
        return [
            *("ip", "netns", "exec", self.namespace, "unshare", "--mount"),
            *("sh", "-c", f'{mounts} && exec "$@"', self.namespace, *command),
        ]


def missing() -> str:
    """Why there can be no two hosts here; empty where there can."""
    if os.geteuid() != 0:
        return "NOT TESTED: network namespaces need root: run the tests as root, as .ci/run does in a container"
    name = f"meap-try-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        subprocess.run(["unshare", "--mount", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"NOT TESTED: this machine allows no namespaces ({error})"
    finally:
        with suppress(OSError, subprocess.CalledProcessError):
            _ip("netns", "delete", name)
    return ""


@contextmanager
def two_hosts(folder: Path) -> Iterator[Sequence[Host]]:
    """Join two hosts by a cable; `folder` is for their disks."""
    local_disk = folder / "local"
    local_disk.mkdir()
    hosts = [Host(f"meap-{os.getpid()}-{number}", f"10.77.0.{number + 1}", local_disk) for number in range(2)]
    try:
        for host in hosts:
            _ip("netns", "add", host.namespace)
        first, second = (host.namespace for host in hosts)
        _ip("link", "add", INTERFACE, "netns", first, "type", "veth", "peer", "name", INTERFACE, "netns", second)
        for host in hosts:
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", INTERFACE)
            for interface in ("lo", INTERFACE):
                _ip("-n", host.namespace, "link", "set", interface, "up")
        yield hosts
    finally:
        for host in hosts:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", host.namespace)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
