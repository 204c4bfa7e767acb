//! What of finding and calling ONNX Runtime is different on each system.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(super) use system::{
    FILE_NAME, PYTHON_DEPTH, PYTHONS, USER_PACKAGES, is_library_name, is_whole, own_folder, runtime_string,
};
