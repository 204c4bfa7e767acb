//! The Python package: its wheel, and the Python that tests it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::onnx;
use crate::setup;
use crate::shell::{Outcome, capture, root, target};
use crate::systems::{Built, here};

/// The Python of the package's tests, which finds the package of this checkout and the library just built.
pub fn python() -> Outcome<Command> {
    let mut python = Command::new(setup::bindings_python()?);
    let onnx = onnx::setup()?;
    python.arg("-B").env("PYTHONPATH", root().join("bindings/python"));
    python.env("CAPSULEGRAPH_LIBRARY", target().join("release"));
    python.env("CAPSULEGRAPH_ONNXRUNTIME", onnx.join("runtime"));
    python.env("CAPSULEGRAPH_TEST_MODEL", setup::model()?).env("CAPSULEGRAPH_TEST_ONNX", onnx);
    // So that a check of the sdist shares what cargo has compiled.
    python.env("CARGO_TARGET_DIR", target());
    Ok(python)
}

/// The runners of the package's tests.
pub fn tests() -> Outcome<Vec<(&'static str, Command)>> {
    here()?;
    let folder = root().join("bindings/python/tests");
    let runner = |file: &str| -> Outcome<Command> {
        let mut command = python()?;
        command.arg(folder.join(file));
        Ok(command)
    };
    Ok(vec![("Python: the table of cases", runner("cases.py")?), ("Python: tests", runner("run.py")?)])
}

/// Writes the sdist and a wheel for each system into `folder`, and has auditwheel confirm the tags of those for Linux; gives
/// the wheels, in the systems' order.
pub fn dist(built: &[Built], folder: &Path) -> Outcome<Vec<PathBuf>> {
    let hooks = |code: &str, built: Option<&Built>| -> Outcome<String> {
        let mut python = python()?;
        python.current_dir(root().join("bindings/python"));
        if let Some(built) = built {
            python.env("CAPSULEGRAPH_BUILT", &built.folder).env("CAPSULEGRAPH_PLATFORM", built.system.python);
        }
        let code = format!("import sys, build_backend as b; print(b.{code}(sys.argv[1]))");
        Ok(capture(python.arg("-c").arg(code).arg(folder))?.trim().to_owned())
    };
    println!("{}", folder.join(hooks("build_sdist", None)?).display());
    let mut wheels = Vec::new();
    for built in built {
        let name = hooks("build_wheel", Some(built))?;
        let wheel = folder.join(&name);
        let platform = name.trim_end_matches(".whl").rsplit('-').next().unwrap_or_default();
        if platform.starts_with("manylinux") {
            let said = capture(python()?.args(["-m", "auditwheel", "show"]).arg(&wheel))?;
            let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
            if !words.contains(&format!("consistent with the following platform tag: \"{platform}\"")) {
                return Err(format!("auditwheel does not confirm the tag of {}:\n{said}", wheel.display()));
            }
        }
        println!("{}", wheel.display());
        wheels.push(wheel);
    }
    Ok(wheels)
}
