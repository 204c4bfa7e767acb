"""Builds wheel and sdist: the package, the library and the program `cgraph`, which cargo builds where they are not given.

As PEP 517 has it. CAPSULEGRAPH_BUILT names a folder with a built library and program, in place of calling cargo, and
CAPSULEGRAPH_PLATFORM the platform that they are for, as `sysconfig` has it, where it is not this one. In a checkout the Rust
sources are two folders up, in an sdist in `rust`.
"""

import base64
import csv
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

try:
    import tomllib
except ImportError:  # before Python 3.11
    tomllib = None

HERE = Path(__file__).resolve().parent
CRATE = HERE / "rust" if (HERE / "rust/Cargo.toml").is_file() else HERE.parents[1]
# Where the licences are: in an sdist beside PKG-INFO, which names them so.
LICENCE_FOLDER = HERE if CRATE.parent == HERE else CRATE
PLATFORM = os.environ.get("CAPSULEGRAPH_PLATFORM") or sysconfig.get_platform()
WINDOWS, MAC = PLATFORM.startswith("win"), PLATFORM.startswith("macosx")
LIBRARY = "capsulegraph.dll" if WINDOWS else "libcapsulegraph.dylib" if MAC else "libcapsulegraph.so"
PROGRAM = "cgraph.exe" if WINDOWS else "cgraph"
# Its own, and those of the crates in it.
LICENCES = ["LICENSE-APACHE", "LICENSE-MIT", "docs/licenses.md"]
# What cargo needs of the checkout.
SOURCES = ["Cargo.toml", "Cargo.lock", "build.rs", "src", "include", "README.md", "CHANGELOG.md"]


def version():
    """The crate's version as PEP 440 writes it."""
    text = (CRATE / "Cargo.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(\d+\.\d+\.\d+)(?:-(alpha|beta|rc)\.(\d+))?"$', text, re.M)
    if not found:
        raise SystemExit("Cargo.toml states no version that can be written for Python")
    release, stage, number = found.groups()
    return release + ({"alpha": "a", "beta": "b", "rc": "rc"}[stage] + number if stage else "")


def project():
    """What pyproject.toml says of the project; of its few forms this reads those that are in it."""
    text = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    if tomllib:
        return tomllib.loads(text)["project"]
    result = {"optional-dependencies": {}, "scripts": {}}
    table = ""
    for line in text.splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        elif " = " in line:
            key, _, value = line.partition(" = ")
            place = result if table == "project" else result.get(table.partition(".")[2], {})
            place[key] = eval(value, {"__builtins__": {}})  # strings and lists of strings are written alike
    return result


def metadata():
    """The core metadata."""
    about = project()
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {about['name']}",
        f"Version: {version()}",
        f"Summary: {about['description']}",
        f"License-Expression: {about['license']}",
        *(f"License-File: {name}" for name in LICENCES),
        f"Keywords: {','.join(about['keywords'])}",
        f"Requires-Python: {about['requires-python']}",
    ]
    for extra, requirements in about["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {requirement}; extra == "{extra}"' for requirement in requirements]
    lines.append("Description-Content-Type: text/markdown")
    return "\n".join(lines) + "\n\n" + (HERE / "README.md").read_text(encoding="utf-8")


def built():
    """The folder with library and program."""
    given = os.environ.get("CAPSULEGRAPH_BUILT")
    if given:
        return Path(given)
    command = ["cargo", "build", "--release", "--manifest-path", str(CRATE / "Cargo.toml"), "--lib", "--bin", "cgraph"]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        raise SystemExit("cargo was not found; install Rust, or install a wheel, which needs none") from None
    return Path(os.environ.get("CARGO_TARGET_DIR") or CRATE / "target") / "release"


def glibc(paths):
    """The newest version of glibc whose symbols these files ask for: (2, X)."""
    needed = {(2, 17)}
    for path in paths:
        symbols = path.read_bytes()
        needed |= {(int(a), int(b)) for a, b in re.findall(rb"GLIBC_(\d+)\.(\d+)", symbols)}
    return max(needed)


def platform(paths):
    """The platform tag: on Linux the oldest that auditwheel would let pass."""
    tag = PLATFORM.replace("-", "_").replace(".", "_")
    if tag.startswith("linux_"):
        major, minor = glibc(paths)
        return f"manylinux_{major}_{minor}_{tag[len('linux_'):]}"
    return tag


def stripped(source, target):
    """Copies without the debugging information, where there is a program that can take it away."""
    shutil.copyfile(source, target)
    strip = shutil.which("strip")
    if strip and not WINDOWS and PLATFORM == sysconfig.get_platform():
        subprocess.run([strip, "-x" if MAC else "--strip-unneeded", str(target)], check=True)


class _Wheel:
    """A wheel that is being written, with the record of its files."""

    def __init__(self, path):
        self.archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self.records = []

    def add(self, name, data, mode=0o644):
        info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
        info.external_attr = (0o100000 | mode) << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        self.archive.writestr(info, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self.records.append((name, f"sha256={digest}", len(data)))

    def close(self, record):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*self.records, (record, "", "")])
        self.add(record, text.getvalue().encode())
        self.archive.close()


def _wheel(folder, library, program, tag, package):
    about = project()
    info = f"{about['name']}-{version()}.dist-info"
    name = f"{about['name']}-{version()}-py3-none-{tag}.whl"
    part = Path(folder) / (name + ".part")
    wheel = _Wheel(part)
    for path, place, mode in package:
        wheel.add(place, path.read_bytes(), mode)
    if library:
        wheel.add(f"capsulegraph/{LIBRARY}", library.read_bytes(), 0o755)
        wheel.add(f"capsulegraph/bin/{PROGRAM}", program.read_bytes(), 0o755)
    wheel.add(f"{info}/METADATA", metadata().encode())
    purity = "Wheel-Version: 1.0\nGenerator: capsulegraph\nRoot-Is-Purelib: false\n"
    wheel.add(f"{info}/WHEEL", f"{purity}Tag: py3-none-{tag}\n".encode())
    scripts = "".join(f"{name} = {place}\n" for name, place in about["scripts"].items())
    wheel.add(f"{info}/entry_points.txt", f"[console_scripts]\n{scripts}".encode())
    for licence in LICENCES:
        wheel.add(f"{info}/licenses/{licence}", (LICENCE_FOLDER / licence).read_bytes())
    wheel.close(f"{info}/RECORD")
    os.replace(part, Path(folder) / name)
    return name


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """A wheel for this system."""
    place = built()
    package = sorted((HERE / "capsulegraph").iterdir())
    files = [(path, f"capsulegraph/{path.name}", 0o644) for path in package if path.suffix in (".py", ".typed")]
    with tempfile.TemporaryDirectory() as folder:
        library, program = Path(folder) / LIBRARY, Path(folder) / PROGRAM
        stripped(place / LIBRARY, library)
        stripped(place / PROGRAM, program)
        return _wheel(wheel_directory, library, program, platform([library, program]), files)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """A wheel that points to this folder; the library is that of CAPSULEGRAPH_LIBRARY or of the checkout's target folder."""
    with tempfile.TemporaryDirectory() as folder:
        pointer = Path(folder) / "capsulegraph.pth"
        pointer.write_text(f"{HERE}\n", encoding="utf-8")
        return _wheel(wheel_directory, None, None, "any", [(pointer, "capsulegraph.pth", 0o644)])


def _members():
    """Paths and names of what an sdist holds."""
    own = ["pyproject.toml", "README.md", "build_backend.py", "capsulegraph"]
    for base, names, prefix in ((HERE, own, ""), (LICENCE_FOLDER, LICENCES, ""), (CRATE, SOURCES, "rust/")):
        for name in names:
            path = base / name
            if not path.exists():
                raise SystemExit(f"{path} is not there, and belongs to the sdist; take it from the repository")
            found = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in found:
                if file.is_file() and file.suffix not in (".pyc", ".so", ".dylib", ".dll"):
                    yield file, prefix + file.relative_to(base).as_posix()


def crate_alone(manifest):
    """Cargo.toml without what the sdist leaves out: other members of the workspace, tests, benches."""
    tables = re.split(r"^(?=\[)", manifest, flags=re.M)
    left_out = ("[workspace]", "[dev-dependencies]", "[[bench]]", "[[test]]")
    return "".join(table for table in tables if not table.startswith(left_out))


def build_sdist(sdist_directory, config_settings=None):
    """Sources from which cargo and any Python build a wheel."""
    base = f"{project()['name']}-{version()}"
    name = f"{base}.tar.gz"
    part = Path(sdist_directory) / (name + ".part")
    with gzip.GzipFile(part, "wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name, data):
            info = tarfile.TarInfo(f"{base}/{name}")
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))

        for path, place in _members():
            data = path.read_bytes()
            if place == "rust/Cargo.toml":
                data = crate_alone(data.decode()).encode()
            add(place, data)
        add("PKG-INFO", metadata().encode())
    os.replace(part, Path(sdist_directory) / name)
    return name
