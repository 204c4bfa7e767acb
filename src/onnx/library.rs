//! Finding ONNX Runtime's shared library, and loading it once for the process.
//!
//! The library is loaded when a model first runs, never before: files are opened and inspected without it.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::os;
use crate::error::{Error, Result};

/// Names a library file, or a folder that holds one.
pub const VARIABLE: &str = "CAPSULEGRAPH_ONNXRUNTIME";
/// Oldest minor version (1.N) that can serve: the first that takes weights from memory.
pub const OLDEST_MINOR: u32 = 18;
/// First minor version that computes with weights where they lie, in place of a copy of its own.
pub const ZERO_COPY_MINOR: u32 = 31;

/// A library that is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Where it was found; a bare file name where the system's loader found it.
    pub path: PathBuf,
    /// The version that it gives of itself, as "1.31.1".
    pub version: String,
}

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// A place where the library may be.
#[derive(Clone, Debug)]
struct Place {
    /// What the place is, for messages.
    what: &'static str,
    /// A file or a folder; the bare file name for the system's loader.
    path: PathBuf,
    /// Whether somebody named it: then nothing else will do.
    named: bool,
}

/// Loads the library: the one at `named`, else the first that serves of the usual places (docs/onnx.md). A process has one:
/// once it is loaded, the same is given again.
///
/// # Errors
/// [`Error::NotFound`] that says what was looked for and where; [`Error::Unsupported`] where only older ones were found;
/// [`Error::InvalidArgument`] where another one than that at `named` is loaded already.
pub fn load(named: Option<&Path>) -> Result<Loaded> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = &*loaded {
        return same_again(loaded, named);
    }
    let mut tried = Tried::default();
    for place in places(named) {
        let Some(path) = library_at(&place) else {
            tried.note(&place, &place.path, &absence(&place.path));
            continue;
        };
        match load_file(&path) {
            Ok(version) => {
                let found = Loaded { path, version };
                *loaded = Some(found.clone());
                return Ok(found);
            }
            Err(Refusal::TooOld(version)) => {
                tried.too_old = true;
                tried.note(&place, &path, &format!("version {version}, too old"));
            }
            Err(Refusal::Unusable(why)) => tried.note(&place, &path, &why),
        }
        if place.named {
            break;
        }
    }
    Err(tried.error())
}

fn same_again(loaded: &Loaded, named: Option<&Path>) -> Result<Loaded> {
    let Some(named) = named else { return Ok(loaded.clone()) };
    // Every run asks: the usual answer costs no look at the disk.
    if named == loaded.path {
        return Ok(loaded.clone());
    }
    let place = Place { what: "", path: named.to_owned(), named: true };
    let wanted = library_at(&place).unwrap_or_else(|| named.to_owned());
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if real(&wanted) == real(&loaded.path) {
        return Ok(loaded.clone());
    }
    Err(Error::InvalidArgument(format!(
        "{}: ONNX Runtime is loaded from {} already, and a process can have one only; start another process, or name the \
         same library",
        named.display(),
        loaded.path.display()
    )))
}

/// What was tried, for the error.
#[derive(Default)]
struct Tried {
    lines: String,
    too_old: bool,
}

impl Tried {
    fn note(&mut self, place: &Place, path: &Path, outcome: &str) {
        let separator = if self.lines.is_empty() { "" } else { "; " };
        let _ = write!(self.lines, "{separator}{}: {} ({outcome})", place.what, path.display());
    }

    fn error(self) -> Error {
        let text = format!(
            "ONNX models run by ONNX Runtime 1.{OLDEST_MINOR} or later ({}; 1.{ZERO_COPY_MINOR} or later to compute with \
             weights where they lie), and none was found. Looked at {}. Get it with: pip install \"onnxruntime>=1.{OLDEST_MINOR}\" \
             (on Linux the packages hold the library from 1.19 on), or from the releases of ONNX Runtime; it is found in the \
             package, beside the program, or where the option for it (on the command line --onnxruntime PATH) or the environment variable {VARIABLE} \
             says",
            os::FILE_NAME,
            self.lines
        );
        if self.too_old { Error::Unsupported(text) } else { Error::NotFound(text) }
    }
}

/// Why there is no library at a path.
fn absence(path: &Path) -> String {
    if path.is_dir() {
        format!("no {} in it", os::FILE_NAME)
    } else if path.is_relative() {
        "of no Python on the path, of no active environment and not of the user".to_owned()
    } else if path.exists() {
        "neither a file nor a folder".to_owned()
    } else {
        "not there".to_owned()
    }
}

/// Where to look, in order.
fn places(named: Option<&Path>) -> Vec<Place> {
    let explicit = |what, path: PathBuf| vec![Place { what, path: absolute(path), named: true }];
    if let Some(path) = named {
        return explicit("the option", path.to_owned());
    }
    if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        return explicit("the environment variable", path.into());
    }
    let place = |what| move |path| Place { what, path, named: false };
    let mut all = Vec::new();
    all.extend(os::own_folder().map(place("beside this library")));
    let program = env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned()));
    all.extend(program.map(place("beside the program")));
    let packages = python_packages();
    if packages.is_empty() {
        // For the message: nothing is there.
        all.push(place("the Python package")(Path::new("site-packages").join("onnxruntime").join("capi")));
    }
    all.extend(packages.into_iter().map(place("the Python package onnxruntime")));
    all.push(Place { what: "the system", path: os::FILE_NAME.into(), named: false });
    all
}

/// The loader takes a relative path for one beside the program.
pub(super) fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// The library that a place holds: the file itself, or the newest in the folder.
fn library_at(place: &Place) -> Option<PathBuf> {
    if place.path.parent() == Some(Path::new("")) && !place.named {
        return Some(place.path.clone());
    }
    if !place.path.is_dir() {
        return place.path.is_file().then(|| place.path.clone());
    }
    let names =
        |path: &Path| path.file_name().and_then(|name| name.to_str()).is_some_and(os::is_library_name);
    let entries = fs::read_dir(&place.path).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = entries.filter(|path| names(path) && path.is_file()).collect();
    found.sort_by_key(|path| version_in(path));
    found.pop()
}

/// The numbers in a file's name, so that 1.9 comes before 1.31.
fn version_in(path: &Path) -> Vec<u64> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Folders in which the Python package `onnxruntime` keeps its library: of the active environment, and of each Python on
/// the path. Looked for in the folders alone; no Python is started.
fn python_packages() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = Vec::new();
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        roots.extend(env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    for folder in env::split_paths(&path) {
        for program in os::PYTHONS.iter().map(|name| folder.join(name)).filter(|program| program.is_file()) {
            // A link in a virtual environment leads out of it: both ends have packages.
            for real in [Some(program.clone()), fs::canonicalize(&program).ok()].into_iter().flatten() {
                roots.extend(real.ancestors().nth(os::PYTHON_DEPTH).map(Path::to_owned));
            }
        }
    }
    roots.extend(user_base());
    let mut found: Vec<PathBuf> = Vec::new();
    for root in roots {
        for packages in package_folders(&root) {
            let folder = packages.join("onnxruntime").join("capi");
            if folder.is_dir() && !found.contains(&folder) {
                found.push(folder);
            }
        }
    }
    found
}

/// Where `pip install --user` puts packages.
fn user_base() -> Option<PathBuf> {
    if let Some(base) = env::var_os("PYTHONUSERBASE").filter(|base| !base.is_empty()) {
        return Some(base.into());
    }
    let (home, own) = os::USER_PACKAGES;
    env::var_os(home).map(|home| Path::new(&home).join(own))
}

/// The folders of packages below the root of a Python installation, the newest Python's first.
fn package_folders(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![root.join("Lib").join("site-packages")];
    let mut versions: Vec<PathBuf> = Vec::new();
    for lib in ["lib", "lib64", "local/lib"] {
        let entries = fs::read_dir(root.join(lib)).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
        versions.extend(entries.filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("python"))
        }));
    }
    versions.sort_by_key(|path| version_in(path));
    for version in versions.iter().rev() {
        folders.push(version.join("site-packages"));
        folders.push(version.join("dist-packages"));
    }
    folders
}

/// Why a file is not used.
enum Refusal {
    TooOld(String),
    Unusable(String),
}

/// Loads one file, which the crate `ort` then keeps for the rest of the process, and gives its version.
fn load_file(path: &Path) -> Result<String, Refusal> {
    if !path.is_absolute() {
        // `ort` looks beside the program first, and panics where it cannot tell where that is.
        let program = env::current_exe().ok();
        if program.as_deref().and_then(Path::parent).is_none() {
            return Err(Refusal::Unusable("it is not known where the program lies".into()));
        }
    }
    if !os::is_whole(path) {
        return Err(Refusal::Unusable("it is cut short: get it again".into()));
    }
    let version = version_of(path)?;
    let minor = version.split('.').nth(1).and_then(|part| part.parse::<u32>().ok());
    if !version.starts_with("1.") || minor.is_none_or(|minor| minor < OLDEST_MINOR) {
        return Err(Refusal::TooOld(version));
    }
    // Only the library is wanted of it; the environment is made with settings that the builder does not have.
    let kept = ort::init_from(path).map(|_| version);
    kept.map_err(|error| Refusal::Unusable(one_line(&error_text(&error))))
}

/// The version that a library gives of itself, asked before `ort` loads it, which would panic at an odd one.
fn version_of(path: &Path) -> Result<String, Refusal> {
    let unusable = |error: libloading::Error| Refusal::Unusable(one_line(&error_text(&error)));
    type Base = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;
    // SAFETY: loading runs the library's initialisers, which is what whoever named or installed it asks for. The function has
    // had this signature in every release; what it gives is part of the library, which is open until the string is copied.
    unsafe {
        let library = libloading::Library::new(path).map_err(unusable)?;
        let base: libloading::Symbol<'_, Base> = library.get(b"OrtGetApiBase\0").map_err(unusable)?;
        let base = base();
        if base.is_null() {
            return Err(Refusal::Unusable("it gives no API".into()));
        }
        let version = ((*base).GetVersionString)();
        if version.is_null() {
            return Err(Refusal::Unusable("it gives no version".into()));
        }
        Ok(std::ffi::CStr::from_ptr(version).to_string_lossy().into_owned())
    }
}

/// An error and what caused it: the outer one alone says only that loading failed.
fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_folder_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let names =
            ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.31.1", "libonnxruntime.so.1.18.0", "other.so"];
        for name in names {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let place = Place { what: "", path: folder.path().to_owned(), named: true };
        if cfg!(target_os = "linux") {
            assert_eq!(library_at(&place), Some(folder.path().join(names[1])));
        }
        assert_eq!(library_at(&Place { path: folder.path().join("none"), ..place }), None);
    }

    /// The loader maps what the header says, and the first touch behind the file's end would kill the process.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_library_that_is_cut_short_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(os::FILE_NAME);
        let whole = fs::read(env::current_exe().unwrap()).unwrap();
        for len in [100, 5000, 1 << 20] {
            fs::write(&path, &whole[..len]).unwrap();
            let refusal = load_file(&path).err();
            assert!(matches!(refusal, Some(Refusal::Unusable(why)) if why.contains("cut short")), "{len}");
        }
        assert!(os::is_whole(&env::current_exe().unwrap()));
    }

    #[test]
    fn a_file_that_is_no_library_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(os::FILE_NAME);
        fs::write(&path, "no library").unwrap();
        match load_file(&path) {
            Err(Refusal::Unusable(why)) => assert!(!why.is_empty() && !why.contains('\n'), "{why}"),
            Err(Refusal::TooOld(_)) | Ok(_) => panic!("it was loaded"),
        }
    }
}
