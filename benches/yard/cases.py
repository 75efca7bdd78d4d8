"""The cases: what is moved, by whom, and how the result is checked. Each run cleans up behind itself."""

import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from .peers import Ftx, LockedFtx, Missing, Nginx, Relay, Rsync, Ssh, Tar
from .process import Cost, Wrong, find, run

SMALL_FILE_BYTES = 4096
FILES_A_DIRECTORY = 100
ROUND_TRIP_SECONDS = 0.05
PIECE_BYTES = 1 << 24


@dataclass
class Rival:
    """One row: what ftx is compared with. `must` and `reach` are ratios of rates."""

    label: str
    run: Callable[[int], Cost]
    must: float | None = None
    reach: float | None = None


@dataclass
class Case:
    key: str
    title: str
    # How much one run moves, and in what.
    amount: float
    unit: str
    ours: Callable[[int], Cost]
    rivals: list[Rival]
    # Seconds, where the link is slow: the first rival is the same without that.
    round_trip: float = 0.0


class Bench:
    """Sources, servers and cases; a server is started when the first case needs it."""

    def __init__(self, scratch, disk, binary, size, files):
        self.scratch, self.disk, self.binary = scratch, disk, binary
        self.size, self.files = size, files
        self.servers, self.missing, self.trees = {}, set(), 0

    CASES = (
        "get-known", "get-new", "put", "blake3-get-known", "blake3-get-new", "blake3-put",
        "many-put", "many-get", "disk-put", "far-put", "locked-get-known", "locked-get-new", "locked-put",
        "locked-blake3-get", "locked-blake3-put", "locked-many-put",
    )

    def case(self, key):
        return getattr(self, key.replace("-", "_"))()

    # Cases.

    def get_known(self):
        ours = self.get_by_ftx("big", [])
        curl = lambda turn: self.got(lambda nginx, target: nginx.get("big", target))
        rivals = self.rivals(
            (Nginx, "curl from nginx", curl, 0.75, 1.0),
            (Nginx, "curl from nginx, then openssl dgst -sha256", self.get_by_hand, 1.3, 1.6),
            (Ssh, "scp", self.get_by_scp, 2.5, 4.0),
        )
        return self.big("get-known", "get, SHA-256 verified, digest known to the server", ours, rivals)

    def get_new(self):
        ours = self.get_by_ftx(None, [])
        curl = lambda turn: self.got(lambda nginx, target: nginx.get("big", target))
        rivals = self.rivals((Nginx, "curl from nginx", curl, 0.55, 0.8))
        return self.big("get-new", "get, SHA-256 verified, digest not yet known", ours, rivals)

    def put(self):
        rivals = self.rivals(
            (Nginx, "curl -T to nginx", self.put_by_curl, 0.55, 0.8),
            (Ssh, "scp", self.put_by_scp, 2.5, 4.0),
        )
        return self.big("put", "put, SHA-256 both sides", self.put_by_ftx([]), rivals)

    def blake3_get_known(self):
        curl = lambda turn: self.got(lambda nginx, target: nginx.get("big", target))
        rivals = self.rivals((Nginx, "curl from nginx", curl, 1.0, 1.2))
        ours = self.get_by_ftx("big", ["--digest", "blake3"])
        return self.big("blake3-get-known", "get, BLAKE3 verified, digest known", ours, rivals)

    def blake3_get_new(self):
        curl = lambda turn: self.got(lambda nginx, target: nginx.get("big", target))
        rivals = self.rivals((Nginx, "curl from nginx", curl, 1.0, 1.2))
        ours = self.get_by_ftx(None, ["--digest", "blake3"])
        return self.big("blake3-get-new", "get, BLAKE3 verified, digest not yet known", ours, rivals)

    def blake3_put(self):
        rivals = self.rivals((Nginx, "curl -T to nginx", self.put_by_curl, 1.0, 1.2))
        return self.big("blake3-put", "put, BLAKE3 both sides", self.put_by_ftx(["--digest", "blake3"]), rivals)

    def many_put(self):
        rivals = self.rivals(
            (Rsync, "rsync daemon", lambda turn: self.put_tree_by(self.rsync()), 1.2, 1.6),
            (Tar, "tar through a bare stream (no check, no answer)", lambda turn: self.put_tree_by(self.tar())),
        )
        ours = lambda turn: self.put_tree(self.ftx(), ["--durability", "none"])
        return self.many("many-put", "put -r, --durability none", ours, rivals)

    def many_get(self):
        rivals = self.rivals((Rsync, "rsync daemon", lambda turn: self.get_tree(self.rsync().get), 1.2, 1.6))
        ours = lambda turn: self.get_tree(lambda name, target: self.ftx().get(name, target, "-r", "--durability", "none"))
        self.tree_at(self.ftx().root)
        return self.many("many-get", "get -r, --durability none", ours, rivals)

    def disk_put(self):
        rivals = self.rivals(
            (Rsync, "rsync --fsync", lambda turn: self.put_tree_by(self.disk_rsync(), "--fsync"), 2.0, 4.0),
            (Rsync, "rsync without fsync", lambda turn: self.put_tree_by(self.disk_rsync()), 0.3, 1.0),
        )
        ours = lambda turn: self.put_tree(self.disk_ftx(), ["--durability", "full"])
        return self.many("disk-put", f"put -r to {file_system(self.disk.path)}, durability full", ours, rivals)

    def far_put(self):
        near = self.relay(0.0)
        far = self.relay(ROUND_TRIP_SECONDS)
        rivals = [Rival("the same over the relay without delay", lambda turn: self.put_tree(self.ftx(), [], near.port))]
        ours = lambda turn: self.put_tree(self.ftx(), [], far.port)
        title = f"put -r, {ROUND_TRIP_SECONDS * 1000:.0f} ms round trip"
        case = self.many("far-put", title, ours, rivals)
        case.round_trip = ROUND_TRIP_SECONDS
        return case

    # The same inside TLS, and with a token, against who encrypts as well.

    def locked_get_known(self):
        rivals = self.rivals((Ssh, "scp", self.get_by_scp, 3.0, None))
        ours = self.get_by_ftx("big", [], self.locked_ftx)
        return self.big("locked-get-known", "get inside TLS, digest known to the server", ours, rivals)

    def locked_get_new(self):
        rivals = self.rivals((Ssh, "scp", self.get_by_scp, 3.0, None))
        ours = self.get_by_ftx(None, [], self.locked_ftx)
        return self.big("locked-get-new", "get inside TLS, digest not yet known", ours, rivals)

    def locked_put(self):
        rivals = self.rivals((Ssh, "scp", self.put_by_scp, 3.0, None))
        return self.big("locked-put", "put inside TLS", self.put_by_ftx([], self.locked_ftx), rivals)

    def locked_blake3_get(self):
        rivals = self.rivals((Ssh, "scp", self.get_by_scp, 3.0, None))
        ours = self.get_by_ftx("big", ["--digest", "blake3"], self.locked_ftx)
        return self.big("locked-blake3-get", "get inside TLS, BLAKE3, digest known to the server", ours, rivals)

    def locked_blake3_put(self):
        rivals = self.rivals((Ssh, "scp", self.put_by_scp, 3.0, None))
        ours = self.put_by_ftx(["--digest", "blake3"], self.locked_ftx)
        return self.big("locked-blake3-put", "put inside TLS, BLAKE3", ours, rivals)

    def locked_many_put(self):
        rivals = self.rivals((Rsync, "rsync daemon, plain", lambda turn: self.put_tree_by(self.rsync())))
        ours = lambda turn: self.put_tree(self.locked_ftx(), ["--durability", "none"])
        return self.many("locked-many-put", "put -r inside TLS, --durability none", ours, rivals)

    # Runs of big files.

    def get_by_ftx(self, name, words, server=None):
        server = server or self.ftx

        def once(turn):
            here = name or f"new-{turn}"
            if name is None:
                shutil.copyfile(self.big_file(), server().root / here)
            elif not (server().root / here).exists():
                os.link(self.big_file(), server().root / here)
            try:
                return self.got(lambda ftx, target: ftx.get(here, target, *words), server())
            finally:
                if name is None:
                    (server().root / here).unlink()

        return once

    def got(self, get, server=None):
        server = server or self.nginx()
        target = self.scratch.path / "got"
        try:
            cost = get(server, target)
            self.same(self.big_file(), target)
            return cost
        finally:
            target.unlink(missing_ok=True)

    def get_by_hand(self, _turn):
        openssl = find("openssl")

        def both(nginx, target):
            return nginx.get("big", target) + run([openssl, "dgst", "-sha256", target])

        return self.got(both)

    def get_by_scp(self, _turn):
        return self.got(lambda ssh, target: ssh.get("big", target), self.ssh())

    def put_by_ftx(self, words, server=None):
        server = server or self.ftx
        return lambda turn: self.given(
            server(), turn, lambda name: server().run("put", *words, self.big_file(), "--as", name)
        )

    def put_by_curl(self, turn):
        return self.given(self.nginx(), turn, lambda name: self.nginx().put(self.big_file(), name))

    def put_by_scp(self, turn):
        return self.given(self.ssh(), turn, lambda name: self.ssh().put(self.big_file(), name))

    def given(self, server, turn, put):
        target = server.root / f"put-{turn}"
        try:
            cost = put(target.name)
            self.same(self.big_file(), target)
            return cost
        finally:
            target.unlink(missing_ok=True)

    # Runs of many files.

    def put_tree(self, ftx, words, through=None):
        put = lambda name: ftx.run("put", "-r", *words, self.tree(), "--as", name, through=through)
        return self.given_tree(ftx.root, put)

    def put_tree_by(self, peer, *words):
        return self.given_tree(peer.root, lambda name: peer.put(self.tree(), name, *words))

    def given_tree(self, root, put):
        # Nobody has had it: what is there already would be skipped.
        self.trees += 1
        target = root / f"tree-{self.trees}"
        # What an earlier run left to be written is not this one's to wait for.
        subprocess.run(["sync", "-f", root], check=True)
        try:
            cost = put(target.name)
            same_tree(self.tree(), target)
            return cost
        finally:
            # On a disk it stays until the end: ext4 without a journal looks at every inode that was freed in
            # the last half minute before it takes another one, which would be most of what is measured.
            if self.scratch.path in root.parents:
                shutil.rmtree(target, ignore_errors=True)

    def get_tree(self, get):
        target = self.scratch.path / "got-tree"
        try:
            cost = get("tree", target)
            same_tree(self.tree(), target)
            return cost
        finally:
            shutil.rmtree(target, ignore_errors=True)

    # Sources.

    def big_file(self):
        path = self.scratch.path / "big"
        if not path.exists():
            generator, left = random.Random(7389), self.size
            with open(path, "wb") as file:
                while left:
                    left -= file.write(generator.randbytes(min(left, PIECE_BYTES)))
        return path

    def tree(self):
        path = self.scratch.path / "tree"
        if not path.exists():
            self.grow(path)
        return path

    def tree_at(self, root):
        if not (root / "tree").exists():
            self.grow(root / "tree")

    def grow(self, path):
        generator = random.Random(7389)
        for number in range(self.files):
            directory = path / f"d{number // FILES_A_DIRECTORY:04}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"file-{number:06}").write_bytes(generator.randbytes(SMALL_FILE_BYTES))

    def same(self, expected, found):
        if subprocess.run(["cmp", "-s", expected, found]).returncode != 0:
            raise Wrong(f"{found} is not what was sent")

    # Servers.

    def ftx(self):
        return self.once("ftx", lambda: Ftx(self.scratch, self.binary, self.scratch.directory("ftx")))

    def locked_ftx(self):
        return self.once("locked-ftx", lambda: LockedFtx(self.scratch, self.binary, self.scratch.directory("locked-ftx")))

    def disk_ftx(self):
        return self.once("disk-ftx", lambda: Ftx(self.scratch, self.binary, self.disk.directory("ftx")))

    def nginx(self):
        return self.once("nginx", lambda: self.linked(Nginx(self.scratch)))

    def ssh(self):
        return self.once("ssh", lambda: self.linked(Ssh(self.scratch)))

    def linked(self, server):
        os.link(self.big_file(), server.root / "big")
        return server

    def rsync(self):
        def start():
            server = Rsync(self.scratch, self.scratch.directory("rsync/root"))
            self.tree_at(server.root)
            return server

        return self.once("rsync", start)

    def disk_rsync(self):
        return self.once("disk-rsync", lambda: Rsync(self.disk, self.disk.directory("rsync/root")))

    def tar(self):
        return self.once("tar", lambda: Tar(self.scratch))

    def relay(self, round_trip):
        return self.once(f"relay-{round_trip}", lambda: Relay(self.scratch, self.ftx().address, round_trip))

    def once(self, name, start):
        if name not in self.servers:
            try:
                self.servers[name] = start()
            except Missing as tool:
                self.servers[name] = tool
        if isinstance(self.servers[name], Missing):
            raise self.servers[name]
        return self.servers[name]

    # Rows.

    def rivals(self, *rows):
        found = []
        for kind, *row in rows:
            try:
                {Nginx: self.nginx, Ssh: self.ssh, Rsync: self.rsync, Tar: self.tar}[kind]()
            except Missing as tool:
                self.missing.add(str(tool))
            else:
                found.append(Rival(*row))
        return found

    def big(self, key, title, ours, rivals):
        return Case(key, title, self.size / (1 << 30), "GiB/s", ours, rivals)

    def many(self, key, title, ours, rivals):
        return Case(key, title, self.files, "files/s", ours, rivals)


def same_tree(expected, found):
    """Same names, same bytes, nothing more."""
    wanted, there = files_of(expected), files_of(found)
    if wanted != there:
        raise Wrong(f"{found}: {len(there)} files instead of {len(wanted)}")
    for name in wanted:
        if (expected / name).read_bytes() != (found / name).read_bytes():
            raise Wrong(f"{found / name} is not what was sent")


def files_of(path):
    return {
        os.path.relpath(os.path.join(directory, name), path)
        for directory, _, names in os.walk(path)
        for name in names
    }


def file_system(path):
    """The kind of file system that a path is on, as the kernel calls it."""
    mounts = (line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
    inside = [mount for mount in mounts if str(path.resolve()).startswith(mount[0])]
    return max(inside, key=lambda mount: len(mount[0]))[1]
