"""Separate hosts on one machine: network namespaces on a switch of their own. Needs root and `ip`."""

import os
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from commands import command_line, distiltune, environment
from servers import S3_ENVIRONMENT


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
    """One namespace with one address, and a home that no other host sees: its own disk.

    All hosts share what is outside of the network's directory, including the code and Ray's directories.
    """

    name: str
    address: str
    home: Path

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def prefix(self) -> tuple[str, ...]:
        home, network = shlex.quote(str(self.home)), shlex.quote(str(self.home.parent))
        # `.` is the home even while the mount hides its path; `ip netns exec` keeps mounts to itself.
        mount = f"mount -t tmpfs none {network} && mkdir {home} && mount -c --bind . {home}"
        script = f'cd {home} && {mount} && cd {home} && exec "$@"'
        return ("ip", "netns", "exec", self.name, "sh", "-c", script, "sh")

    @property
    def own(self) -> dict[str, str]:
        """Variables of this host."""
        return {
            **S3_ENVIRONMENT,
            "DISTILTUNE_CACHE": str(self.home / "cache"),
            "TMPDIR": str(self.home / "tmp"),
            "HF_HUB_OFFLINE": "1",
        }

    def distiltune(self, *arguments, **options):
        """Run the command line on this host, in its home."""
        return distiltune(self.state, *arguments, prefix=self.prefix, **{**self.own, **options})

    @contextmanager
    def running(self, *arguments) -> Iterator[tuple[subprocess.Popen, Path]]:
        """The command line on this host while the block runs, and the file of its stdout."""
        output = self.home.parent / f"{self.home.name}-{arguments[0]}-{secrets.token_hex(3)}.out"
        with output.open("w") as out, output.with_suffix(".err").open("w") as errors:
            process = subprocess.Popen(
                [*self.prefix, *command_line(*arguments)],
                env=environment(self.state, **self.own),
                stdout=out,
                stderr=errors,
            )
        try:
            yield process, output
        finally:
            process.terminate()
            process.wait(timeout=30)

    def run(self, *command, **options):
        """Run any command on this host, in its home."""
        return subprocess.run(
            [*self.prefix, *command],
            capture_output=True,
            text=True,
            env=environment(self.state, **self.own),
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
        host = Host(name, f"{self._subnet}.{number}", self.directory / short_name)
        (host.home / "tmp").mkdir(parents=True)
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
