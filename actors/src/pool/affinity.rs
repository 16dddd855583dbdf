//! Which cores this process may use, and putting a worker on one of them.

/// The cores of the process's affinity mask, in order; empty where the platform does not tell.
///
/// The mask is the process's (its main thread's), not the calling thread's, which may be pinned for reasons of
/// its own.
#[cfg(target_os = "linux")]
pub(super) fn cores() -> Vec<usize> {
    // SAFETY: a `cpu_set_t` is a plain bit array, for which zero is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable and its size is passed along.
    let failed = unsafe { libc::sched_getaffinity(libc::getpid(), size_of::<libc::cpu_set_t>(), &mut set) };
    if failed != 0 {
        return Vec::new();
    }
    // SAFETY: every index is below `CPU_SETSIZE`.
    (0..libc::CPU_SETSIZE as usize)
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect()
}

/// Pins the calling thread to one core; false if the system refuses.
#[cfg(target_os = "linux")]
pub(super) fn pin(core: usize) -> bool {
    if core >= libc::CPU_SETSIZE as usize {
        return false;
    }
    // SAFETY: a `cpu_set_t` is a plain bit array, for which zero is a valid value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the index was checked; 0 names the calling thread; `set` is readable and its size is passed along.
    unsafe {
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0
    }
}

/// The core the calling thread runs on at this moment, where the platform tells.
#[cfg(target_os = "linux")]
pub(super) fn current_core() -> Option<usize> {
    // SAFETY: the call has no preconditions.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// The cores of the process's affinity mask; unknown on this platform.
#[cfg(not(target_os = "linux"))]
pub(super) fn cores() -> Vec<usize> {
    Vec::new()
}

/// Pins the calling thread to one core; not supported on this platform.
#[cfg(not(target_os = "linux"))]
pub(super) fn pin(_core: usize) -> bool {
    false
}

/// The core the calling thread runs on; unknown on this platform.
#[cfg(not(target_os = "linux"))]
pub(super) fn current_core() -> Option<usize> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_runs_on_its_core() {
        let cores = cores();
        assert!(!cores.is_empty());
        let last = cores[cores.len() - 1];
        let seen = std::thread::spawn(move || (pin(last), current_core())).join().unwrap();
        assert_eq!(seen, (true, Some(last)));
        assert!(!pin(usize::MAX));
    }
}
