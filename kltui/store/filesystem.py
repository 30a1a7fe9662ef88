"""Whether a folder is on a network file system, where SQLite's WAL is not safe."""

from __future__ import annotations

from pathlib import Path

_NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "lustre",
    "gpfs",
    "fuse",
    "9p",
    "afs",
    "ceph",
    "beegfs",
    "glusterfs",
    "pvfs",
)
MOUNTS = Path("/proc/self/mounts")


def file_system(folder: Path, mounts: Path | None = None) -> str:
    """Type of the file system that holds `folder` ("ext4", "nfs4"), "" where that is unknown."""
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
        # The mount table writes blanks as octal escapes.
        point = Path(fields[1].replace("\\040", " ").replace("\\011", "\t"))
        if (target == point or point in target.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def is_network(kind: str) -> bool:
    """True for file-system types where memory-mapped shared state between hosts fails."""
    return kind.startswith(_NETWORK)
