"""What file system a folder is on: several machines see some, and SQLite's write-ahead log works on none of these."""

from __future__ import annotations

from pathlib import Path

NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "afs", "panfs", "wekafs", "glusterfs",
           "fuse.glusterfs", "fuse.sshfs", "fuse.ceph", "fuse.beegfs")  # fmt: skip
MOUNTS = Path("/proc/self/mounts")  # Linux; elsewhere a folder counts as this machine's own


def shared(folder: Path) -> bool:
    """Whether other machines may see the folder too."""
    return MOUNTS.exists() and filesystem(folder.resolve(), MOUNTS.read_text()) in NETWORK


def filesystem(folder: Path, mounts: str) -> str:
    """The type of the file system that an absolute folder is on, by the lines of /proc/self/mounts."""
    found, depth = "", -1
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        place = Path(point.replace("\\040", " "))  # a space in a name is written so
        if folder.is_relative_to(place) and len(place.parts) >= depth:
            found, depth = kind, len(place.parts)  # of two on one point the later hides the earlier
    return found
