//! Who descends from this process. Linux only: there a guard is its descendants' new parent when theirs dies, so none is missed.

use std::{collections::HashMap, fs};

use rustix::process::Pid;

/// All living processes below this one; those that only wait to be reaped are left out.
pub fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<(i32, bool)>> = HashMap::new();
    for (pid, parent, alive) in all() {
        children.entry(parent).or_default().push((pid, alive));
    }
    let mut found = Vec::new();
    let mut parents = vec![rustix::process::getpid().as_raw_nonzero().get()];
    while let Some(parent) = parents.pop() {
        for (pid, alive) in children.remove(&parent).unwrap_or_default() {
            parents.push(pid);
            found.extend(Pid::from_raw(pid).filter(|_| alive));
        }
    }
    found
}

fn all() -> impl Iterator<Item = (i32, i32, bool)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        // The kernel cuts names at 15 bytes, be it in the middle of a letter.
        let stat = fs::read(entry.path().join("stat")).ok()?;
        let (parent, alive) = parse(&String::from_utf8_lossy(&stat))?;
        Some((pid, parent, alive))
    })
}

/// Parent and life of a `/proc/PID/stat`. The name in it may hold blanks and parentheses.
fn parse(stat: &str) -> Option<(i32, bool)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X" | "x");
    Some((fields.next()?.parse().ok()?, alive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_confuse() {
        assert_eq!(parse("7 (a) Z 1 (b c) S 42 7 7 0"), Some((42, true)));
        assert_eq!(parse("7 (sh) Z 3 7 7 0"), Some((3, false)));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_name_that_is_cut_in_the_middle_of_a_letter_hides_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("fourteen-bytesü");
        std::os::unix::fs::symlink("/bin/sh", &name).unwrap();
        let mut child = std::process::Command::new(&name)
            .args(["-c", "read _"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The name changes a little after the program has begun.
        let comm = format!("/proc/{}/comm", child.id());
        while fs::read(&comm).unwrap() != b"fourteen-bytes\xc3\n" {
            std::thread::yield_now();
        }
        let found = descendants();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            found
                .iter()
                .any(|pid| pid.as_raw_nonzero().get().cast_unsigned() == child.id())
        );
    }
}
