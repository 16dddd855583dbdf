//! How much memory there is for tensors unless the user says so.

use std::path::Path;

/// The bytes that tensors of one of so many processes may take together: three quarters of the machine's memory, or of that
/// of the process' control group if that is less, divided by the processes. No limit on a system that does not say.
pub(crate) fn share(processes: usize) -> usize {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.as_deref().and_then(total);
    let limits = machine.into_iter().chain(group());
    limits.min().map_or(usize::MAX, |bytes| {
        usize::try_from(bytes / 4 * 3).unwrap_or(usize::MAX) / processes.max(1)
    })
}

/// `MemTotal` of `/proc/meminfo`.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least limit of the process' control group (version 2) and of the groups that it is in.
fn group() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let top = Path::new("/sys/fs/cgroup");
    let own = top.join(path);
    let groups = own.ancestors().take_while(|group| group.starts_with(top));
    let limit = |group: &Path| -> Option<u64> {
        // `max` where there is no limit.
        let text = std::fs::read_to_string(group.join("memory.max")).ok()?;
        text.trim().parse().ok()
    };
    groups.filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_read_in_bytes() {
        assert_eq!(total("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert_eq!(total("MemTotal: a lot\n"), None);
    }

    #[test]
    fn processes_share_what_there_is() {
        let all = share(1);
        assert!(all > 64 << 20, "{all}");
        assert!(share(4) <= all / 4);
    }
}
