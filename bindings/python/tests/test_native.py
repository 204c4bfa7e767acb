"""_native.py says what include/capsulegraph.h says, and its structs are what a C compiler makes of them."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from support import PACKAGE, ROOT, language

from capsulegraph import _native

HEADER = ROOT / "include/capsulegraph.h"
INTEGERS = {
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
    "capg_status": ctypes.c_uint32,
}


def declarations():
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    text = re.sub(r"//.*", "", text)
    structs = dict(re.findall(r"typedef struct (capg_\w+) \{(.*?)\} \1;", text, re.S))
    callbacks = {n: (r, a) for r, n, a in re.findall(r"typedef (\w+) \(\*(capg_\w+)\)\((.*?)\);", text, re.S)}
    body = text[text.index('extern "C"') :]
    functions = {n: (r, a) for r, n, a in re.findall(r"^([\w ]+?\*?) ?(capg_\w+)\(([^)]*)\);", body, re.S | re.M)}
    constants = dict(re.findall(r"#define CAPG_(\w+) (\d+)", text))
    return structs, callbacks, functions, constants


STRUCTS, CALLBACKS, FUNCTIONS, CONSTANTS = declarations()


def python_name(name):
    return "".join(word.capitalize() for word in name[5:].split("_"))


def parsed(declaration):
    """Type, number of stars and name of a declaration in C."""
    words = declaration.replace("struct ", "").replace("const", "").replace("*", " * ").split()
    return words[0], words.count("*"), words[-1]


def wanted(declaration, inside):
    """What ctypes should have for a declaration; inside: of a struct or callback, where text is an address."""
    kind, stars, _ = parsed(declaration)
    if kind == "void":
        return ctypes.c_void_p
    if kind in CALLBACKS:
        return getattr(_native, python_name(kind))
    if kind == "char":
        if stars == 2:
            return ctypes.POINTER(ctypes.c_void_p)
        return ctypes.c_void_p if inside else ctypes.c_char_p
    if kind in STRUCTS or kind in INTEGERS:
        base = getattr(_native, python_name(kind)) if kind in STRUCTS else INTEGERS[kind]
        for _ in range(stars):
            base = ctypes.POINTER(base)
        return base
    return ctypes.c_void_p if stars == 1 else ctypes.POINTER(ctypes.c_void_p)


def result(kind):
    kind = kind.replace("const", "").strip()
    return None if kind == "void" else ctypes.c_char_p if "*" in kind else INTEGERS[kind]


def parameters(text):
    return [] if text.strip() == "void" else [part.strip() for part in text.split(",")]


class Native(unittest.TestCase):
    def test_constants(self):
        self.assertGreater(len(CONSTANTS), 80)
        for name, value in CONSTANTS.items():
            self.assertEqual(getattr(_native, name), int(value), name)

    def test_functions(self):
        self.assertGreater(len(FUNCTIONS), 80)
        self.assertEqual({name[5:] for name in FUNCTIONS}, set(_native.FUNCTIONS))
        for name, (kind, arguments) in FUNCTIONS.items():
            types = [wanted(argument, False) for argument in parameters(arguments)]
            self.assertEqual(_native.FUNCTIONS[name[5:]], (result(kind), types), name)

    def test_functions_are_those_that_the_library_exports(self):
        exported = (ROOT / "tests/data/exported-symbols.txt").read_text().split()
        self.assertEqual({name[5:] for name in exported if name.startswith("capg_")}, set(_native.FUNCTIONS))

    def test_callbacks(self):
        self.assertEqual(len(CALLBACKS), 6)
        for name, (kind, arguments) in CALLBACKS.items():
            found = getattr(_native, python_name(name))
            types = tuple(wanted(argument, True) for argument in parameters(arguments))
            self.assertEqual((found._restype_, found._argtypes_), (result(kind), types), name)

    def test_fields_of_structs(self):
        self.assertGreater(len(STRUCTS), 12)
        for name, body in STRUCTS.items():
            fields = [(parsed(f)[2], wanted(f, True)) for f in body.split(";") if f.strip()]
            self.assertEqual(getattr(_native, python_name(name))._fields_, fields, name)

    def test_sizes_and_offsets_are_the_compilers(self):
        compiler = os.environ.get("CC") or shutil.which("cc")
        self.assertTrue(compiler, "a C compiler is needed")
        lines = ["#include <capsulegraph.h>", "#include <stdio.h>", "int main(void) {"]
        expected = []
        for name in STRUCTS:
            kind = getattr(_native, python_name(name))
            lines.append(f'    printf("%zu\\n", sizeof({name}));')
            expected.append(ctypes.sizeof(kind))
            for field, _ in kind._fields_:
                lines.append(f'    printf("%zu\\n", offsetof({name}, {field}));')
                expected.append(getattr(kind, field).offset)
        lines += ["    return 0;", "}", ""]
        with tempfile.TemporaryDirectory() as place:
            source, program = Path(place) / "sizes.c", Path(place) / "sizes"
            source.write_text("\n".join(lines))
            subprocess.run([compiler, "-I", HEADER.parent, source, "-o", program], check=True)
            printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
        self.assertEqual([int(line) for line in printed.split()], expected)


class Loading(unittest.TestCase):
    """What importing says where the library is not what it should be."""

    def failure(self, library):
        """What an import says at last; of a checkout, in which there may be a library."""
        environment = {**os.environ, "CAPSULEGRAPH_LIBRARY": str(library), "PYTHONPATH": str(PACKAGE)}
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-B", "-c", "import capsulegraph"]
            done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr.splitlines()[-1]

    def compiled(self, place, code):
        source, library = Path(place) / "other.c", Path(place) / "other.so"
        source.write_text(code)
        subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
        return library

    def test_a_library_of_another_abi_version(self):
        with tempfile.TemporaryDirectory() as place:
            library = self.compiled(place, "unsigned capg_abi_version(void) { return 99; }\n")
            message = self.failure(library)
        self.assertIn("ImportError", message)
        self.assertIn("keeps version 99 of the C API, and this package was made for 1", message)

    def test_a_library_that_lacks_functions(self):
        with tempfile.TemporaryDirectory() as place:
            message = self.failure(self.compiled(place, "unsigned capg_abi_version(void) { return 1; }\n"))
        self.assertIn("is older than this package", message)

    def test_another_library(self):
        with tempfile.TemporaryDirectory() as place:
            message = self.failure(self.compiled(place, "int other;\n"))
        self.assertIn("is no library of CapsuleGraph", message)

    def test_no_library(self):
        message = self.failure("/nowhere")
        self.assertIn("was not found; searched:", message)
        self.assertIn("CAPSULEGRAPH_LIBRARY is '/nowhere'", message)

    def test_library_and_program_are_searched_alike(self):
        from unittest import mock

        from capsulegraph import _library

        names, target = (_library.NAME, _library.PROGRAM), ROOT / "target/release"
        with tempfile.TemporaryDirectory() as place:
            for variables, folder in (
                ({"CAPSULEGRAPH_LIBRARY": place}, Path(place)),
                ({"CAPSULEGRAPH_LIBRARY": f"{place}/{_library.NAME}"}, Path(place)),
                ({"CARGO_TARGET_DIR": place}, Path(place) / "release"),
                ({}, target),
            ):
                with mock.patch.dict(os.environ, variables, clear=True):
                    package, beside = zip(*map(_library.places, names))
                self.assertEqual(package, (PACKAGE / "capsulegraph" / names[0], PACKAGE / "capsulegraph/bin" / names[1]))
                self.assertEqual(beside, tuple(folder / name for name in names))

    def test_a_file_that_is_no_library(self):
        self.assertIn("cannot be loaded", self.failure(Path(__file__)))


class Program(unittest.TestCase):
    @unittest.skipUnless(hasattr(os, "killpg"), "the system has no process groups")
    def test_where_a_program_is_waited_for_ctrl_c_is_its_own(self):
        """As on Windows, where a process cannot become another one."""
        child = (
            "import signal, sys, time\n"
            "def clean(*_): time.sleep(0.6); print('cleaned up', flush=True); sys.exit(130)\n"
            "signal.signal(signal.SIGINT, clean); print('ready', flush=True); time.sleep(20)\n"
        )
        code = (
            "import signal, sys\nfrom capsulegraph.__main__ import _wait\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "sys.exit(_wait([sys.executable, '-c', sys.argv[1]]))\n"
        )
        command = [sys.executable, "-c", code, child]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            self.assertEqual(process.stdout.readline(), "ready\n")
            os.killpg(process.pid, signal.SIGINT)
            self.assertEqual((process.stdout.read(), process.wait(30)), ("cleaned up\n", 130))


class Names(unittest.TestCase):
    def test_every_public_name_is_used_here(self):
        import capsulegraph

        files = [path for path in Path(__file__).parent.glob("*.py") if path.name != Path(__file__).name]
        text = "".join(path.read_text(encoding="utf-8") for path in files)
        unused = [name for name in capsulegraph.__all__ if not re.search(rf"\bcg\.{name}\b", text)]
        self.assertEqual(unused, [])
        public = {name for name, value in vars(capsulegraph).items() if getattr(value, "__module__", "").startswith("capsulegraph")}
        self.assertEqual({name for name in public if not name.startswith("_")}, set(capsulegraph.__all__))


class Table(unittest.TestCase):
    """The runner of the table of cases refuses cases that say nothing, or something else than it does."""

    def outcome(self, *lines):
        import cases

        case = cases.Case("made here")
        for line in lines:
            key, _, value = line.partition(" ")
            case.lines.setdefault(key, []).append(value)
        try:
            cases.attempt(case)
        except Exception as error:
            return str(error)
        return "ok"

    def test_rules(self):
        file, tokens = f"file {language()}", "tokens 19556"
        for wanted, lines in (
            ("ok", ("do tokenize", file, "text Hello", tokens)),
            ("tokens is [19556] and should be []", ("do tokenize", file, "text Hello")),
            ("tokens is [", ("do generate", file, "prompt Hello", "max_tokens 1")),
            ("tokens is [19556] and should be []", ("do tokenize", file, "text Hello", "tokens ")),
            ("tokens is there twice", ("do tokenize", file, "text Hello", tokens, tokens)),
            ("text is there twice", ("do generate", file, "prompt Hello", "max_tokens 1", "text a", "text a")),
            ("y has the type 'bool', which is none of", ("do run", file, "output y bool 1 1")),
            ("this runner does not know other", ("do tokenize", file, "other 1")),
        ):
            self.assertTrue(self.outcome(*lines).startswith(wanted), (lines, self.outcome(*lines)))


if __name__ == "__main__":
    unittest.main()
