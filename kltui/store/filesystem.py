"""Whether a folder is on a network file system, where SQLite's write-ahead log (WAL) is not safe."""

from __future__ import annotations

from pathlib import Path

# How the names of these types begin; folders that a virtual machine shares with its host are among them.
_NETWORK = (
    "nfs", "cifs", "smb", "lustre", "gpfs", "fuse", "9p", "afs", "ceph", "beegfs", "fhgfs", "glusterfs", "pvfs",
    "panfs", "wekafs", "gfs", "ocfs", "acfs", "snfs", "ibrix", "coda", "virtiofs", "vboxsf", "vmhgfs", "prl_fs",
)  # fmt: skip
MOUNTS = Path("/proc/self/mounts")


def file_system(folder: Path, mounts: Path | None = None) -> str:
    """Type of the file system that contains `folder` ("ext4", "nfs4"), from the mount table `mounts`; "" if unknown."""
    try:
        lines = (mounts or MOUNTS).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    target = folder.resolve()
    best, kind = -1, ""
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        # The mount table writes spaces and tabs as octal escapes.
        point = Path(fields[1].replace("\\040", " ").replace("\\011", "\t"))
        if (target == point or point in target.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def is_network(kind: str) -> bool:
    """Whether hosts that mount a file system of this type may see different contents of one memory-mapped file."""
    return kind.startswith(_NETWORK)
