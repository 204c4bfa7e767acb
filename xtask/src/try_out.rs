//! What `cargo xtask dist` made, out of empty folders: each archive's and each wheel's programs run, by emulators where their
//! systems are others.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dist::{self, DOCUMENTS};
use crate::setup;
use crate::shell::{self, Outcome, capture, run};
use crate::systems::System;

/// What the answer to every example's first question names.
const ANSWER: &str = "Tokyo";

/// An empty folder.
fn empty(name: &str) -> Outcome<PathBuf> {
    let work = dist::cleared(&shell::cache().join("unpacked").join(name))?;
    fs::create_dir_all(&work).map_err(|e| format!("cannot create {}: {e}", work.display()))?;
    Ok(work)
}

/// Has the archive's own command line convert a model, and its examples answer with it, built with its libraries.
pub fn archive(system: &System, archive: &Path) -> Outcome {
    let work = empty(system.name)?;
    let mut unpack = if system.zipped { shell::python() } else { Command::new("tar") };
    unpack.args(if system.zipped { &["-m", "zipfile", "-e"][..] } else { &["xzf"] }).arg(archive);
    run(unpack.args((!system.zipped).then_some("-C")).arg(&work))?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let tree = work.join(name.trim_end_matches(".zip").trim_end_matches(".tar.gz"));
    let (model, program) = (work.join("model.cgraph"), tree.join("bin").join(system.program));
    if !system.zipped {
        run(Command::new("test").arg("-x").arg(&program))?;
    }
    let mut convert = (system.runner)(&program)?;
    convert.arg("convert").arg((system.path)(&setup::model()?)).arg("-o").arg((system.path)(&model));
    run(convert.arg("--no-mini"))?;
    if let [emulator, options @ ..] = system.oldest {
        let mut least = Command::new(emulator);
        least.args(options).arg(&program).arg("run").arg(&model);
        run(least.args(["-p", "Hi", "-n", "1", "--ctx", "64", "--threads", "1", "-q"]))?;
    }
    for program in [quickstarts(system, &tree)?, consumers(system, &tree, &work)?].concat() {
        let answer = capture((system.runner)(&program)?.arg((system.path)(&model)))?;
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        println!("{}, {name}: {}", system.name, answer.trim());
        if !answer.contains(ANSWER) {
            return Err(format!("{}: {name} answers {answer:?}", system.name));
        }
    }
    dist::cleared(&work).map(drop)
}

/// The example in C, linked with the shared library and with the static one, beside the command line.
fn quickstarts(system: &System, tree: &Path) -> Outcome<Vec<PathBuf>> {
    let lib = tree.join("lib");
    let mut whole = vec![lib.join("libcapsulegraph.a").into_os_string()];
    whole.extend(system.system_libraries.split(' ').map(OsString::from));
    let shared =
        ["-L".into(), lib.into_os_string(), "-lcapsulegraph".into(), "-Wl,-rpath,$ORIGIN/../lib".into()];
    let mut programs = Vec::new();
    for (name, libraries) in [("shared", shared.to_vec()), ("static", whole)] {
        let program = tree.join("bin").join(format!("{name}.exe"));
        let mut compile = Command::new(system.compiler);
        compile.arg(tree.join(DOCUMENTS).join("examples/quickstart.c")).arg("-o").arg(&program);
        run(compile.arg("-I").arg(tree.join("include")).args(libraries))?;
        programs.push(program);
    }
    Ok(programs)
}

/// The CMake project among the examples, where there is a C++ compiler for the system.
fn consumers(system: &System, tree: &Path, work: &Path) -> Outcome<Vec<PathBuf>> {
    let Some(settings) = system.cmake else { return Ok(Vec::new()) };
    let build = work.join("build");
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(tree.join(DOCUMENTS).join("examples/cmake_consumer")).arg("-B").arg(&build);
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", tree.display())).arg("-DCMAKE_BUILD_TYPE=Release");
    // Another system's packages are looked for where that system is.
    configure.arg(format!("-DCMAKE_FIND_ROOT_PATH={}", tree.display()));
    run(configure.args(settings))?;
    run(Command::new("cmake").arg("--build").arg(&build))?;
    let end = Path::new(system.program).extension().map(|end| format!(".{}", end.to_string_lossy()));
    let end = end.unwrap_or_default();
    Ok(["answer", "answer_static"].map(|name| build.join(format!("{name}{end}"))).to_vec())
}

/// Holds a wheel's files against its own list of them, and runs its program.
pub fn wheel(system: &System, wheel: &Path) -> Outcome {
    const UNPACK: &str = "
import base64, csv, hashlib, io, sys, zipfile
wheel, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as package:
    names = set(package.namelist())
    [record] = [name for name in names if name.endswith('.dist-info/RECORD')]
    rows = list(csv.reader(io.StringIO(package.read(record).decode())))
    assert {row[0] for row in rows} == names and len(rows) == len(names), 'RECORD does not list the files'
    for name, digest, size in rows:
        data = package.read(name)
        right = 'sha256=' + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()
        assert name == record or (digest, int(size)) == (right, len(data)), f'RECORD is wrong of {name}'
    package.extractall(folder)
";
    let work = empty("wheel")?;
    run(shell::python().arg("-c").arg(UNPACK).arg(wheel).arg(&work))?;
    let program = work.join("capsulegraph/bin").join(system.program);
    // Python's zipfile gives no file the right to be run.
    run(Command::new("chmod").arg("+x").arg(&program))?;
    let said = capture((system.runner)(&program)?.arg("--version"))?;
    println!("{}, {}: {}", system.name, wheel.display(), said.trim());
    if said.trim() != format!("cgraph {}", dist::version()?) {
        return Err(format!("{}: cgraph says {said:?}", wheel.display()));
    }
    dist::cleared(&work).map(drop)
}
