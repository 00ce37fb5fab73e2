"""Separate hosts on one machine: network namespaces on a switch of their own. Needs root and `ip`."""

import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from commands import command_line, distiltune, environment


def reason_to_skip() -> str | None:
    """Why there can be no namespaces here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command `ip`"
    name = f"dtn-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return None


@dataclass
class Host:
    """One namespace with one address, a state directory and a home of its own."""

    name: str
    address: str
    state: Path

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def distiltune(self, *arguments, **others):
        """Run the command line on this host."""
        return distiltune(self.state, *arguments, prefix=self.prefix, **others)

    def start(self, *arguments, **others) -> subprocess.Popen:
        """Start the command line on this host and leave it running."""
        return subprocess.Popen(
            [*self.prefix, *command_line(*arguments)], text=True, env=environment(self.state, **others)
        )

    def run(self, *command, **options):
        """Run any command on this host."""
        return subprocess.run(
            [*self.prefix, *command],
            capture_output=True,
            text=True,
            env=environment(self.state),
            check=False,
            **options,
        )


@dataclass
class Network:
    """A switch, in a namespace of its own, and the hosts on it; the machine's own network is not touched."""

    directory: Path
    prefix: str = field(default_factory=lambda: f"dtn-{secrets.token_hex(3)}")
    hosts: list[Host] = field(default_factory=list)

    def __enter__(self):
        self._subnet = f"10.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}"
        try:
            self._ip("netns", "add", self._switch)
            self._ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
            self._ip("-n", self._switch, "link", "set", "switch", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for host in reversed(self.hosts):
            host.distiltune("cluster", "down")
        for name in [host.name for host in self.hosts] + [self._switch]:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def add(self, short_name: str) -> Host:
        """A further host."""
        number = len(self.hosts) + 1
        name = f"{self.prefix}-{number}"
        state = self.directory / short_name / "state"
        state.parent.mkdir(parents=True)
        host = Host(name, f"{self._subnet}.{number}", state)
        self._ip("netns", "add", name)
        self.hosts.append(host)
        self._ip(
            "-n", name, "link", "add", "eth0", "type", "veth", "peer", f"port{number}", "netns", self._switch
        )
        self._ip("-n", self._switch, "link", "set", f"port{number}", "master", "switch", "up")
        self._ip("-n", name, "address", "add", f"{host.address}/24", "dev", "eth0")
        self._ip("-n", name, "link", "set", "eth0", "up")
        self._ip("-n", name, "link", "set", "lo", "up")
        return host

    @property
    def _switch(self) -> str:
        return f"{self.prefix}-switch"

    def _ip(self, *arguments) -> None:
        subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
