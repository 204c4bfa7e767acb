//! `cargo xtask planes`: nested planes against separate light copies, for docs/memory.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::document;
use crate::shell::{Outcome, cache, capture, root};
use crate::{demo, setup, shell};

/// Makes the models, measures every form on them and writes the tables.
pub fn run() -> Outcome {
    let (cgraph, python, model) = (demo::build()?, setup::python()?, setup::model()?);
    let folder = cache().join("planes");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let noisy = [noisy(&python, &model, &folder, "f16")?, noisy(&python, &model, &folder, "q8_0")?];
    let mut command = Command::new(&python);
    command.arg(root().join("tests/tools/planes.py")).arg(cgraph).arg(&model).arg(&folder).args(&noisy);
    let tables = capture(&mut command)?;
    fs::remove_dir_all(&folder).map_err(|e| format!("cannot remove {}: {e}", folder.display()))?;
    document::fill("memory.md", &[("planes", tables)])
}

/// The model with weights of type `form` that lie on no 4-bit grid.
fn noisy(python: &Path, model: &Path, folder: &Path, form: &str) -> Outcome<PathBuf> {
    let path = folder.join(format!("{form}.gguf"));
    let tool = root().join("tests/tools/noisy_smollm2.py");
    shell::run(Command::new(python).arg(tool).arg(model).arg(&path).arg(form))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use crate::shell::root;

    #[test]
    fn the_page_has_a_place_for_the_tables() {
        let page = std::fs::read_to_string(root().join("docs/memory.md")).unwrap();
        assert!(page.contains("<!-- planes:begin -->\n") && page.contains("<!-- planes:end -->"));
    }
}
