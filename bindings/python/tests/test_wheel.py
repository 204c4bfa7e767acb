"""The wheel works in an empty environment without Rust; the sdist has what cargo needs; examples do what they say."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path

from support import PACKAGE, ROOT, language, onnx, variable

import capsulegraph as cg

BUILT = Path(variable("CAPSULEGRAPH_LIBRARY"))
# Seconds that any program may take: cargo's first check of all crates, on a busy machine.
LONGEST = 1800


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=LONGEST, **options)
    if done.returncode:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def backend(call, folder, source=PACKAGE):
    """Runs a hook of the backend, as pip does, in a process of its own."""
    environment = {**os.environ, "CAPSULEGRAPH_BUILT": str(BUILT if BUILT.is_dir() else BUILT.parent)}
    code = f"import sys, build_backend; print(build_backend.{call}(sys.argv[1]))"
    return Path(folder) / run(sys.executable, "-B", "-c", code, folder, cwd=source, env=environment).strip()


class Packages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.place = Path(tempfile.mkdtemp(prefix="capsulegraph-wheel-"))
        cls.wheel = backend("build_wheel", cls.place)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.place)

    def test_auditwheel_finds_the_tag_true(self):
        name = re.fullmatch(r"capsulegraph-[0-9a-z.]+-py3-none-(manylinux_2_\d+_x86_64)\.whl", self.wheel.name)
        self.assertTrue(name, self.wheel.name)
        said = run(sys.executable, "-m", "auditwheel", "show", self.wheel)
        self.assertIn(f'is consistent with the following platform tag: "{name[1]}"', " ".join(said.split()))

    def test_the_readme_works_in_an_empty_environment(self):
        place = self.place / "empty"
        run(sys.executable, "-m", "venv", place)
        # Neither Rust nor any other program of this machine.
        environment = {"PATH": f"{place}/bin", "HOME": str(place)}
        self.assertIsNone(shutil.which("cargo", path=environment["PATH"]))
        python = place / "bin/python"
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", self.wheel, env=environment)
        self.assertEqual(run(python, "-m", "pip", "check", env=environment).strip(), "No broken requirements found.")
        for readme in (ROOT / "README.md", PACKAGE / "README.md"):
            (example,) = re.findall(r"```python\n(.*?)```", readme.read_text(), re.S)
            with tempfile.TemporaryDirectory() as work:
                os.symlink(variable("CAPSULEGRAPH_TEST_MODEL"), Path(work) / "model.gguf")
                printed = run(python, "-c", example, cwd=work, env=environment)
                self.assertIn("Tokyo", printed)
                said = run(place / "bin/cgraph", "run", "model.cgraph", "-p", "Once upon a time", "-n", "4", cwd=work, env=environment)
                self.assertIn(", the city", said)
        said = run(python, "-m", "capsulegraph", "--version", env=environment)
        self.assertEqual(said.split(), ["cgraph", cg.version()])

    def unpacked(self, place):
        sdist = backend("build_sdist", place)
        with tarfile.open(sdist) as archive:
            archive.extractall(place)
        return sdist, place / sdist.name[: -len(".tar.gz")]

    def test_licences_are_where_the_metadata_says(self):
        with tempfile.TemporaryDirectory() as place:
            _, source = self.unpacked(Path(place))
            named = re.findall(r"^License-File: (.*)$", (source / "PKG-INFO").read_text(encoding="utf-8"), re.M)
            self.assertEqual(len(named), 3)
            for base in (source, ROOT):
                self.assertTrue(all((base / name).stat().st_size > 500 for name in named))
            # A wheel of the sdist finds them too.
            for folder in (PACKAGE, source):
                with zipfile.ZipFile(backend("build_wheel", place, folder)) as archive:
                    names = [name.partition(".dist-info/licenses/")[2] for name in archive.namelist()]
                self.assertEqual([name for name in names if name], named)

    def test_an_sdist_lacks_nothing(self):
        code = "import build_backend as b; b.SOURCES.append('absent'); b.build_sdist(__import__('sys').argv[1])"
        with tempfile.TemporaryDirectory() as place, self.assertRaisesRegex(AssertionError, "absent is not there"):
            run(sys.executable, "-B", "-c", code, place, cwd=PACKAGE)

    def test_the_sdist_has_what_cargo_needs(self):
        sdist, source = self.unpacked(self.place)
        manifest = source / "rust/Cargo.toml"
        run("cargo", "check", "--offline", "--quiet", "--manifest-path", manifest)
        again = run(sys.executable, "-B", "-c", "import build_backend as b; print(b.version(), b.CRATE)", cwd=source)
        version, crate = again.split()
        self.assertIn(version, sdist.name)
        self.assertEqual(Path(crate), manifest.parent.resolve())

    def test_pyproject_is_read_alike_without_tomllib(self):
        code = (
            "import build_backend as b; with_it = b.metadata(), b.project()['scripts']\n"
            "b.tomllib = None; assert (b.metadata(), b.project()['scripts']) == with_it; print('alike')"
        )
        self.assertEqual(run(sys.executable, "-B", "-c", code, cwd=PACKAGE).strip(), "alike")


class Examples(unittest.TestCase):
    def example(self, name, *args, **options):
        return run(sys.executable, ROOT / "examples" / name, *args, **options)

    def test_chat(self):
        said = self.example("chat.py", language(), input="Say hello in French.\n")
        self.assertIn("Bonjour in French.", said)

    def test_voice(self):
        lines = self.example("voice.py", onnx("silero_vad_16k_op15")).split("\n")
        marks = [line.split() for line in lines if line.endswith(("voice", "silence"))]
        self.assertEqual(len(marks), 3, lines)
        silence, voice, noise = (float(mark[-2]) for mark in marks)
        self.assertLess(silence, 0.1)
        self.assertGreater(voice, silence + 0.05)

    def test_weights(self):
        with tempfile.TemporaryDirectory() as place:
            picture = Path(place) / "weights.png"
            said = self.example("weights.py", language(), "block.0.attn", picture)
            self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"))
        self.assertIn("blk.0.attn_k.weight", said)


if __name__ == "__main__":
    unittest.main()
