//! The archive of `cargo xtask dist` as its users have it: unpacked in another folder, used by CMake and pkg-config; and the
//! checkout as a part of another CMake project.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dist;
use crate::setup;
use crate::shell::{Outcome, cache, capture, root, run, target};
use crate::systems::built_here;
use crate::verdict::Verdict;

/// The unpacked archive and what is built with it.
struct Package {
    /// The tree; its path has a space and a letter outside ASCII.
    tree: PathBuf,
    /// For builds.
    work: PathBuf,
    /// A language model, converted by the archive's own command line.
    model: PathBuf,
}

/// A test of the archive: its name and what it does.
type Test = (&'static str, fn(&Package) -> Outcome);

const TESTS: &[Test] = &[
    ("a CMake project uses the moved archive, shared and static", cmake),
    ("its install moves with its library", installed),
    ("versions and components that are not there are refused", refused),
    ("pkg-config compiles the examples in C and C++", pkg_config),
    ("the checkout is a part of a CMake project", subdirectory),
];

/// Makes the archive and runs every test on it.
pub fn check() -> Outcome<Verdict> {
    let package = unpack(&dist::archive(&built_here()?, &cache().join("archive"))?)?;
    let mut verdict = Verdict::default();
    for (name, test) in TESTS {
        match test(&package) {
            Ok(()) => {
                println!("package: {name} ... ok");
                verdict.good += 1;
            }
            Err(message) => {
                println!("package: {name} ... FAILED: {message}");
                verdict.bad.push(format!("{name}: {message}"));
            }
        }
    }
    Ok(verdict)
}

/// Runs the tests alone.
pub fn run_alone() -> Outcome {
    setup::programs()?;
    check()?.conclude("package")
}

fn unpack(archive: &Path) -> Outcome<Package> {
    let folder = dist::cleared(&cache().join("package"))?;
    let (tree, work) = (folder.join("moved ü"), folder.join("work"));
    for new in [&tree, &work] {
        fs::create_dir_all(new).map_err(|e| format!("cannot create {}: {e}", new.display()))?;
    }
    run(Command::new("tar").arg("xzf").arg(archive).arg("--strip-components=1").arg("-C").arg(&tree))?;
    let model = work.join("model.cgraph");
    let mut convert = Command::new(tree.join("bin/cgraph"));
    run(convert.arg("convert").arg(setup::model()?).arg("-o").arg(&model).arg("--no-mini"))?;
    Ok(Package { tree, work, model })
}

impl Package {
    /// A configured and built copy of examples/cmake_consumer, out of the archive.
    fn consumer(&self, name: &str, settings: &[String]) -> Outcome<PathBuf> {
        let build = self.work.join(name);
        let source = self.tree.join("share/doc/capsulegraph/examples/cmake_consumer");
        let mut configure = Command::new("cmake");
        configure
            .arg("-S")
            .arg(source)
            .arg("-B")
            .arg(&build)
            .arg("-DCMAKE_BUILD_TYPE=Release")
            .args(settings);
        run(&mut configure)?;
        run(Command::new("cmake").arg("--build").arg(&build))?;
        Ok(build)
    }

    fn prefix(&self) -> String {
        format!("-DCMAKE_PREFIX_PATH={}", self.tree.display())
    }

    /// Programs that answer must do so alike.
    fn answers(&self, programs: &[PathBuf]) -> Outcome {
        let mut answers = Vec::new();
        for program in programs {
            answers.push(capture(Command::new(program).arg(&self.model).arg("Say hello in French."))?);
        }
        match answers.iter().find(|answer| answer.trim().is_empty() || **answer != answers[0]) {
            Some(other) => Err(format!("answered {other:?}, not {:?}", answers[0])),
            None => Ok(()),
        }
    }
}

fn cmake(package: &Package) -> Outcome {
    let build = package.consumer("consumer", &[package.prefix()])?;
    package.answers(&[build.join("answer"), build.join("answer_static")])?;
    let printed = capture(&mut Command::new(build.join("version")))?;
    if !printed.starts_with("CapsuleGraph ") {
        return Err(format!("version printed {printed:?}"));
    }
    // The program asks for the library by its name, not by where it was.
    let needed = capture(Command::new("readelf").arg("-d").arg(build.join("answer")))?;
    let shared = needed.contains("[libcapsulegraph.so]");
    let static_needs = capture(Command::new("readelf").arg("-d").arg(build.join("answer_static")))?;
    if shared && !static_needs.contains("libcapsulegraph") {
        return Ok(());
    }
    Err(format!("the libraries are not linked as they should be:\n{needed}{static_needs}"))
}

fn installed(package: &Package) -> Outcome {
    let (first, second) = (package.work.join("installed"), package.work.join("moved again"));
    let build = package.consumer("to install", &[package.prefix()])?;
    run(Command::new("cmake").arg("--install").arg(&build).arg("--prefix").arg(&first))?;
    fs::rename(&first, &second).map_err(|e| format!("cannot move {}: {e}", first.display()))?;
    let path = capture(Command::new("readelf").arg("-d").arg(second.join("bin/answer")))?;
    if !path.contains("[$ORIGIN/../lib]") {
        return Err(format!("the program does not look for its library beside itself:\n{path}"));
    }
    package.answers(&[second.join("bin/answer")])
}

fn refused(package: &Package) -> Outcome {
    let folder = package.work.join("refused");
    for (number, (asked, wanted)) in [
        ("1.0 CONFIG REQUIRED", "compatible with requested version"),
        ("0.9 CONFIG REQUIRED", "compatible with requested version"),
        ("0.0 CONFIG REQUIRED", "compatible with requested version"),
        ("0.2 CONFIG REQUIRED", "compatible with requested version"),
        ("0.0.1...<0.1 CONFIG REQUIRED", "compatible with requested version"),
        ("0.1 CONFIG REQUIRED COMPONENTS cpp fortran", "has no component fortran"),
    ]
    .into_iter()
    .enumerate()
    {
        let source = folder.join(number.to_string());
        fs::create_dir_all(&source).map_err(|e| format!("cannot create {}: {e}", source.display()))?;
        let text = format!(
            "cmake_minimum_required(VERSION 3.19)\nproject(P LANGUAGES C)\nfind_package(CapsuleGraph {asked})\n"
        );
        let list = source.join("CMakeLists.txt");
        fs::write(&list, text).map_err(|e| format!("cannot write {}: {e}", list.display()))?;
        let mut command = Command::new("cmake");
        command.arg("-S").arg(&source).arg("-B").arg(source.join("build")).arg(package.prefix());
        let output = command.output().map_err(|e| format!("cannot start cmake: {e}"))?;
        // CMake breaks its lines.
        let errors = String::from_utf8_lossy(&output.stderr);
        let errors = errors.split_whitespace().collect::<Vec<_>>().join(" ");
        if output.status.success() || !errors.contains(wanted) {
            return Err(format!("find_package(CapsuleGraph {asked}): {} {errors}", output.status));
        }
    }
    Ok(())
}

fn pkg_config(package: &Package) -> Outcome {
    let examples = package.tree.join("share/doc/capsulegraph/examples");
    let mut programs = Vec::new();
    for (compiler, source) in [
        ("cc -std=c11", examples.join("quickstart.c")),
        ("c++ -std=c++17", examples.join("cmake_consumer/answer.cpp")),
    ] {
        for (name, libraries) in [
            ("shared", "$(pkg-config --libs capsulegraph)"),
            (
                "static",
                "-Wl,-Bstatic $(pkg-config --static --libs capsulegraph | sed 's/-lcapsulegraph/& -Wl,-Bdynamic/')",
            ),
        ] {
            let program =
                package.work.join(format!("{name} {}", compiler.split(' ').next().unwrap_or_default()));
            // pkg-config escapes what the shell would divide.
            let line = format!(
                "eval {compiler} '\"$1\"' $(pkg-config --cflags capsulegraph) -o '\"$2\"' {libraries} -Wl,-rpath,'\"$3\"'"
            );
            let mut shell = Command::new("sh");
            shell.args(["-ec", &line, "sh"]).arg(&source).arg(&program).arg(package.tree.join("lib"));
            run(shell.env("PKG_CONFIG_PATH", package.tree.join("lib/pkgconfig")))?;
            programs.push(program);
        }
    }
    package.answers(&programs[2..])?;
    for program in &programs[..2] {
        let answer = capture(Command::new(program).arg(&package.model))?;
        if answer.trim().is_empty() {
            return Err(format!("{} printed nothing", program.display()));
        }
    }
    Ok(())
}

fn subdirectory(package: &Package) -> Outcome {
    let settings = [
        format!("-DCAPSULEGRAPH_SOURCE={}", root().display()),
        format!("-DCAPSULEGRAPH_CARGO_TARGET_DIR={}", target().display()),
        // It is built once more, for a system that is named; the optimiser would take minutes.
        "-DCAPSULEGRAPH_CARGO_PROFILE=dev".to_owned(),
    ];
    let build = package.consumer("subdirectory", &settings)?;
    package.answers(&[build.join("answer"), build.join("answer_static")])
}
