"""The servers, ours and others', each in a scratch directory, and how a client of each is called."""

import os
import subprocess
import sys
from pathlib import Path

from .process import find, free_port, run


class Missing(Exception):
    """A tool that is not on this machine; its rows are left out."""


def need(tool):
    path = find(tool)
    if not path:
        raise Missing(tool)
    return path


class Ftx:
    """An ftx server over a directory. `through` is the port of a relay in front of it."""

    name = "ftx"

    def __init__(self, scratch, binary, root, *words, home="state"):
        self.binary, self.root = binary, Path(root)
        self.environment = dict(os.environ, XDG_STATE_HOME=str(scratch.directory(home)))
        self.server = scratch.start(
            [binary, "serve", root, "--listen", "127.0.0.1:0", *words],
            log=scratch.path / "ftx.log",
            stdout=subprocess.PIPE,
        )
        line = self.server.process.stdout.readline().decode()
        if not line.startswith("listening on "):
            raise OSError(f"ftx serve does not start: see {scratch.path}/ftx.log")
        self.address = line.split()[-1]

    def run(self, *words, through=None, cwd=None):
        address = f"127.0.0.1:{through}" if through else self.address
        command, *rest = words
        return run([self.binary, command, "-q", "-s", address, *rest], self.server, self.environment, cwd)

    def get(self, name, target, *words):
        # By a relative path: an absolute one below /dev is a device to ftx, also below /dev/shm.
        return self.run("get", *words, name, "-o", target.name, cwd=target.parent)


class LockedFtx(Ftx):
    """As on an address that is not loopback: TLS, and a token that may do everything."""

    def __init__(self, scratch, binary, root):
        state = scratch.path / "locked-state"
        add = [binary, "token", "--state", state, "add", "bench", "--can", "read,write,replace,delete,list"]
        token = subprocess.run(add, check=True, capture_output=True, text=True).stdout
        super().__init__(scratch, binary, root, "--require-token", "--state", state, home="locked-client")
        # "to connect: ftx login ftx://HOST:PORT#sha256:..."
        server = self.server.process.stdout.readline().decode().split()[-1]
        subprocess.run([binary, "login", server], check=True, input=token, text=True, env=self.environment)


class Nginx:
    name = "nginx"

    def __init__(self, scratch):
        nginx, self.curl = need("nginx"), need("curl")
        home, self.port = scratch.directory("nginx"), free_port()
        self.root = scratch.directory("nginx/root")
        temporary = "".join(
            f"  {kind}_temp_path {scratch.directory('nginx/' + kind)};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # One worker: the client is the other of the two cores.
        (home / "nginx.conf").write_text(
            f"""
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
daemon off;
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections 256; }}
http {{
{temporary}
  access_log off;
  sendfile on;
  tcp_nopush on;
  client_max_body_size 0;
  client_body_buffer_size 1m;
  server {{
    listen 127.0.0.1:{self.port};
    root {self.root};
    location / {{ dav_methods PUT; create_full_put_path on; }}
  }}
}}
"""
        )
        argv = [nginx, "-p", home, "-e", home / "error.log", "-c", home / "nginx.conf"]
        self.server = scratch.start(argv, log=home / "out.log")
        self.server.wait_for_port(self.port)

    def get(self, name, target):
        return run([self.curl, "-sS", "-f", "-o", target, self.url(name)], self.server)

    def put(self, source, name):
        # Without the header curl waits for leave to send.
        argv = [self.curl, "-sS", "-f", "-H", "Expect:", "-o", "/dev/null", "-T", source, self.url(name)]
        return run(argv, self.server)

    def url(self, name):
        return f"http://127.0.0.1:{self.port}/{name}"


class Rsync:
    name = "rsync"

    def __init__(self, scratch, root):
        self.rsync = need("rsync")
        home, self.root, self.port = scratch.directory("rsync"), Path(root), free_port()
        (home / "conf").write_text(
            f"use chroot = no\npid file = {home}/pid\nlog file = {home}/log\n"
            + (f"uid = {os.getuid()}\ngid = {os.getgid()}\n" if os.geteuid() == 0 else "")
            + f"[all]\npath = {root}\nread only = no\n"
        )
        self.server = scratch.start(
            [self.rsync, "--daemon", "--no-detach", f"--config={home}/conf", "--address=127.0.0.1"]
            + [f"--port={self.port}"],
            log=home / "out.log",
        )
        self.server.wait_for_port(self.port)

    def put(self, source, name, *words):
        argv = [self.rsync, "-a", *words, f"{source}/", f"{self.url(name)}/"]
        return run(argv, self.server, peak=False)

    def get(self, name, target):
        return run([self.rsync, "-a", f"{self.url(name)}/", f"{target}/"], self.server, peak=False)

    def url(self, name):
        return f"rsync://127.0.0.1:{self.port}/all/{name}"


class Ssh:
    """scp, by an sshd with keys and a configuration of its own; the ciphers that both choose."""

    name = "scp"

    def __init__(self, scratch):
        sshd, keygen, self.scp = need("sshd"), need("ssh-keygen"), need("scp")
        home, self.port = scratch.directory("ssh"), free_port()
        self.root, self.home = scratch.directory("ssh/root"), home
        for key in ("host", "user"):
            argv = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", home / key]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        (home / "authorized").write_bytes((home / "user.pub").read_bytes())
        (home / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {home}/host\nPidFile {home}/pid\n"
            f"AuthorizedKeysFile {home}/authorized\nStrictModes no\nUsePAM no\nUseDNS no\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
        )
        self.server = scratch.start([sshd, "-D", "-e", "-f", home / "sshd_config"], log=home / "out.log")
        try:
            self.server.wait_for_port(self.port)
        except OSError as error:
            # One from a package that never ran has no directory to separate its privileges in.
            raise Missing("an sshd that starts") from error

    def get(self, name, target):
        return run(self.argv(f"127.0.0.1:{self.root}/{name}", target), self.server, peak=False)

    def put(self, source, name):
        return run(self.argv(source, f"127.0.0.1:{self.root}/{name}"), self.server, peak=False)

    def argv(self, source, target):
        options = ["StrictHostKeyChecking=no", f"UserKnownHostsFile={self.home}/known", "BatchMode=yes"]
        options += ["IdentitiesOnly=yes", "LogLevel=ERROR"]
        words = [word for option in options for word in ("-o", option)]
        return [self.scp, "-q", "-F", "/dev/null", *words, "-i", self.home / "user", "-P", str(self.port), source, target]


class Tar:
    """tar, a bare TCP stream, tar: no digest, no names checked, no answer. As far as anything could get."""

    name = "tar, socat"

    def __init__(self, scratch):
        self.tar, self.socat = need("tar"), need("socat")
        self.scratch, self.root = scratch, scratch.directory("tar")

    def put(self, source, name):
        target, port = self.root / name, free_port()
        target.mkdir()
        receive = f"{self.socat} -u TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr STDOUT | {self.tar} xf - -C {target}"
        send = f"{self.tar} cf - -C {source} . | {self.socat} -u STDIN TCP:127.0.0.1:{port},retry=100,interval=0.005"
        # Both sides count as the client: it is done when the last file is there.
        return run(["/bin/sh", "-c", f"({receive}) & {send}; wait"])


class Relay:
    """A link with a round trip of `round_trip` seconds and no limit of rate."""

    def __init__(self, scratch, address, round_trip):
        self.port = free_port()
        relay = Path(__file__).with_name("relay.py")
        argv = [sys.executable, relay, str(self.port), address, str(round_trip / 2)]
        self.server = scratch.start(argv, log=scratch.path / "relay.log")
        self.server.wait_for_port(self.port)
