"""Built kernels on disk: one file per content hash in a directory only its owner can enter.

An entry is loaded only if it is a regular file of this user whose bytes have the digest written next to it; anything
else is built again. Writing is atomic, and one lock per entry keeps processes from building the same kernel twice.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from recurc.errors import BackendError
from recurc.runtime.notice import notice


def cache_directory() -> Path:
    """The kernel cache: `RECURC_CACHE_DIR`, else the user's cache folder. Where that cannot be used (read-only, not
    ours), a private temporary folder, announced once."""
    named = os.environ.get("RECURC_CACHE_DIR")
    if named:
        return _usable(named)
    from platformdirs import user_cache_dir

    return _usable(str(Path(user_cache_dir("recurc", appauthor=False)) / "kernels"))


@lru_cache(maxsize=16)
def _usable(wanted: str) -> Path:
    folder = Path(wanted)
    try:
        folder = folder.expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = _unsafe(folder)
        if problem is None:
            with tempfile.TemporaryFile(dir=folder):
                return folder
    except (OSError, RuntimeError) as error:  # RuntimeError: `~` of nobody
        problem = getattr(error, "strerror", None) or str(error)
    private = Path(tempfile.mkdtemp(prefix="recurc-kernels-"))
    notice(
        f"the kernel cache {folder} cannot be used ({problem}); kernels of this process go to {private} and are built "
        "again next time. Set RECURC_CACHE_DIR to a folder of your own."
    )
    return private


def _unsafe(folder: Path) -> str | None:
    """Why a folder must not hold code we load, after tightening its mode if it is ours."""
    info = folder.stat()
    if not stat.S_ISDIR(info.st_mode):
        return "it is not a folder"
    if hasattr(os, "geteuid"):
        if info.st_uid != os.geteuid():
            return "another user owns it"
        if stat.S_IMODE(info.st_mode) & 0o077:
            folder.chmod(0o700)
    return None


def content_key(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:40]


def cached_file(key: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """The file of entry `key`, made by `make(path)` if there is none that can be trusted.

    Raises `BackendError` if the folder cannot be written, and whatever `make` raises."""
    from filelock import FileLock

    folder = cache_directory()
    target, digest_file = folder / f"{key}{suffix}", folder / f"{key}.sha256"
    if _trusted(target, digest_file):
        return target
    try:
        with FileLock(folder / f"{key}.lock"):
            if _trusted(target, digest_file):  # another process made it while we waited
                return target
            with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as scratch:
                fresh = Path(scratch) / target.name
                make(fresh)
                digest = Path(scratch) / digest_file.name
                digest.write_text(_digest(fresh), encoding="ascii")
                fresh.replace(target)
                digest.replace(digest_file)
    except OSError as error:
        raise BackendError(
            f"the kernel cache {folder} cannot be written: {error}; remove what is in the way, or set RECURC_CACHE_DIR "
            "to another folder"
        ) from error
    return target


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _trusted(target: Path, digest_file: Path) -> bool:
    try:
        info = target.lstat()
        if not stat.S_ISREG(info.st_mode) or (hasattr(os, "geteuid") and info.st_uid != os.geteuid()):
            return False
        return digest_file.read_text(encoding="ascii").strip() == _digest(target)
    except (OSError, UnicodeDecodeError):
        return False


def clear_cache() -> tuple[int, int]:
    """Remove every kernel; how many files and bytes went. Libraries already loaded stay usable."""
    count = size = 0
    for path in cache_directory().iterdir():
        if path.is_file() and path.suffix in (".so", ".dylib", ".py", ".cubin", ".sha256", ".c", ".lock", ".choice"):
            count, size = count + 1, size + path.stat().st_size
            path.unlink(missing_ok=True)
    return count, size
