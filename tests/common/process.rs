//! What this process uses, from /proc/self.

use std::time::{Duration, Instant};

/// Open descriptors.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Names of all threads, sorted.
pub fn threads() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    names.sort();
    names
}

/// Threads of the library.
pub fn own_threads() -> Vec<String> {
    threads().into_iter().filter(|name| name.starts_with("mc-")).collect()
}

/// Resident memory in KiB.
pub fn resident_kib() -> u64 {
    field("/proc/self/status", "VmRSS:")
}

fn field(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Per thread of the library: name, times it was switched to, nanoseconds it ran.
pub fn activity() -> Vec<(String, u64, u64)> {
    let mut all = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).ok();
        let (Some(name), Some(stat)) = (read("comm"), read("schedstat")) else { continue };
        let name = name.trim().to_owned();
        let numbers: Vec<u64> =
            stat.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if name.starts_with("mc-") {
            all.push((name, numbers[2], numbers[0]));
        }
    }
    all.sort();
    all
}

/// Waits until `done`, at most a minute.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < until, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
