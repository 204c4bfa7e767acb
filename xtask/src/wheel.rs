//! The Python package: its wheel, and the Python that tests it.

use std::path::Path;
use std::process::Command;

use crate::demo;
use crate::onnx;
use crate::setup;
use crate::shell::{self, Outcome, capture, cargo, root, target};

/// Builds the library and the command line with full optimisation.
pub fn build() -> Outcome {
    demo::build()?;
    shell::run(cargo().args(["build", "--release", "--lib"]))
}

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
    build()?;
    let folder = root().join("bindings/python/tests");
    let runner = |file: &str| -> Outcome<Command> {
        let mut command = python()?;
        command.arg(folder.join(file));
        Ok(command)
    };
    Ok(vec![("Python: the table of cases", runner("cases.py")?), ("Python: tests", runner("run.py")?)])
}

/// Writes the wheel and the sdist into `folder`, and has auditwheel confirm the wheel's tag.
pub fn dist(folder: &Path) -> Outcome {
    let mut hooks = python()?;
    hooks.current_dir(root().join("bindings/python")).env("CAPSULEGRAPH_BUILT", target().join("release"));
    let code =
        "import sys, build_backend as b; b.build_sdist(sys.argv[1]); print(b.build_wheel(sys.argv[1]))";
    let name = capture(hooks.args(["-c", code]).arg(folder))?;
    let wheel = folder.join(name.trim());
    let said = capture(python()?.args(["-m", "auditwheel", "show"]).arg(&wheel))?;
    let platform = name.trim().trim_end_matches(".whl").rsplit('-').next().unwrap_or_default().to_owned();
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if !words.contains(&format!("consistent with the following platform tag: \"{platform}\"")) {
        return Err(format!("auditwheel does not confirm the tag of {}:\n{said}", wheel.display()));
    }
    println!("{}", wheel.display());
    Ok(())
}
