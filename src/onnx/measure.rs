//! What the process holds, as far as the system tells.

/// Anonymous memory of the process in bytes; 0 where the system does not tell.
#[cfg(target_os = "linux")]
pub(super) fn anonymous_bytes() -> u64 {
    // Pages: whole size, resident, of these shared with files or others.
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut fields = text.split_whitespace().skip(1).map(|field| field.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
    resident.saturating_sub(shared).saturating_mul(page_bytes())
}

/// Anonymous memory of the process in bytes; 0 where the system does not tell.
#[cfg(not(target_os = "linux"))]
pub(super) fn anonymous_bytes() -> u64 {
    0
}

#[cfg(target_os = "linux")]
fn page_bytes() -> u64 {
    // SAFETY: asks for a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// Has the C library give free memory back to the system: copies of weights that went are large, and it keeps them for the
/// next ones otherwise.
pub(super) fn return_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::anonymous_bytes;

    #[test]
    fn memory_that_is_taken_is_seen() {
        let before = anonymous_bytes();
        let held = vec![1u8; 32 << 20];
        let after = anonymous_bytes();
        assert!(after >= before + (24 << 20), "{before} {after} {}", held.len());
    }
}
