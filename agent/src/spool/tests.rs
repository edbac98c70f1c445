//! The spool against a small model: whatever comes in between, no line is lost, doubled or out of order.

use std::fs::OpenOptions;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const SESSION: SessionId = SessionId(Uuid::from_u128(1));

fn open(dir: &Path) -> Spool {
    Spool::open(dir, 64 << 20, 4).unwrap()
}

fn print(spool: &Spool, text: &str) -> i64 {
    spool
        .append(SESSION, Stream::Stdout, 1, text.as_bytes())
        .unwrap()
        .unwrap()
}

/// All lines after `seq`, batch by batch as the connection reads them.
fn texts(spool: &Spool, mut seq: i64) -> Vec<(i64, String)> {
    let mut all = Vec::new();
    loop {
        let batch = spool.batch(SESSION, seq).unwrap();
        let Some(last) = batch.last() else { return all };
        seq = last.seq;
        all.extend(
            batch
                .into_iter()
                .map(|line| (line.seq, String::from_utf8(line.data.0).unwrap())),
        );
    }
}

#[test]
fn lines_are_numbered_and_only_safe_ones_are_sent() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    assert_eq!((print(&spool, "a\n"), print(&spool, "b\n")), (1, 2));
    assert!(
        spool.pending().is_empty() && texts(&spool, 0).is_empty(),
        "nothing is safe yet"
    );
    assert!(spool.sync());
    let pending = Pending {
        session_id: SESSION,
        acked: 0,
        safe: 2,
    };
    assert_eq!(spool.pending(), [pending]);
    assert_eq!(texts(&spool, 0), [(1, "a\n".into()), (2, "b\n".into())]);
    spool.acknowledge(SESSION, 2).unwrap();
    assert!(spool.pending().is_empty());
    assert_eq!(spool.figures().lines, 0);
}

#[test]
fn numbers_go_on_after_a_restart_and_after_the_servers() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    print(&spool, "a\n");
    assert!(spool.sync());
    spool.acknowledge(SESSION, 1).unwrap();
    drop(spool);
    let spool = open(dir.path());
    assert_eq!(print(&spool, "b\n"), 2);
    spool.begin(SESSION, 50).unwrap();
    assert_eq!(print(&spool, "c\n"), 51);
    assert!(spool.sync());
    assert_eq!(texts(&spool, 50), [(51, "c\n".into())]);
    drop(spool);
    assert_eq!(open(dir.path()).last_seq(SESSION), 51);
}

#[test]
fn acknowledged_segments_leave_the_disk_and_the_numbers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let line = format!("{}\n", "x".repeat(10_000));
    (0..500).for_each(|_| _ = print(&spool, &line));
    assert!(spool.sync());
    assert!(spool.figures().bytes > 5_000_000);
    spool.acknowledge(SESSION, 250).unwrap();
    assert!(spool.figures().bytes < 4_000_000);
    assert_eq!(texts(&spool, 250).len(), 250);
    spool.acknowledge(SESSION, 500).unwrap();
    assert!(spool.figures().bytes < 300_000);
    drop(spool);
    assert_eq!(print(&open(dir.path()), "next\n"), 501);
}

#[test]
fn batches_have_limits() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    (0..1200).for_each(|_| _ = print(&spool, "x\n"));
    let long = format!("{}\n", "y".repeat(200_000));
    (0..5).for_each(|_| _ = print(&spool, &long));
    assert!(spool.sync());
    let mut sizes = Vec::new();
    let mut seq = 0;
    while let Some(last) = spool.batch(SESSION, seq).unwrap().last() {
        sizes.push(last.seq - seq);
        seq = last.seq;
    }
    assert_eq!(sizes, [500, 500, 202, 2, 1]);
}

#[test]
fn what_the_disk_lost_is_told_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let line = format!("{}\n", "x".repeat(100_000));
    (0..30).for_each(|_| _ = print(&spool, &line));
    assert!(spool.sync());
    drop(spool);
    let first = dir
        .path()
        .join(SESSION.to_string())
        .join(format!("out-{:019}.spool", 1));
    let file = OpenOptions::new().write(true).open(first).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"damage", 500_050).unwrap();
    let spool = open(dir.path());
    let lines = texts(&spool, 0);
    let numbers: Vec<i64> = lines.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers, (1..=30).collect::<Vec<_>>());
    assert_eq!(lines.iter().filter(|(_, text)| text == &line).count(), 23);
    assert!(lines[4].1.contains("7 lines were lost"), "{}", lines[4].1);
}

#[test]
fn a_full_share_refuses_then_counts_and_tells_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 4 << 20, 4).unwrap();
    let line = "x".repeat(100_000);
    let mut taken = 0;
    let full = loop {
        match spool.append(SESSION, Stream::Stdout, 7, line.as_bytes()) {
            Ok(seq) => taken = seq.unwrap(),
            Err(full) => break full,
        }
    };
    assert!(
        matches!(full, Full::Share(1_048_576)) && taken == 10,
        "{full} after {taken}"
    );
    let other = SessionId(Uuid::from_u128(2));
    assert!(
        spool.append(other, Stream::Stdout, 7, line.as_bytes()).is_ok(),
        "others have their own share"
    );
    spool.drop_line(SESSION, 7, line.len(), &full);
    assert_eq!(spool.append(SESSION, Stream::Stdout, 7, line.as_bytes()).unwrap(), None);
    assert!(spool.sync());
    let lines = texts(&spool, 9);
    assert!(
        lines[0].1.starts_with("xx") && lines[1].1.contains("dropped from here on"),
        "{}",
        lines[1].1
    );
    spool.acknowledge(SESSION, 11).unwrap();
    spool.append(SESSION, Stream::Stdout, 8, b"after\n").unwrap();
    assert!(spool.sync());
    let lines = texts(&spool, 11);
    assert_eq!(
        lines[0].1,
        "[ace-agent] 2 lines (200000 bytes) were dropped here: the spool was full\n"
    );
    assert_eq!(lines[1], (13, "after\n".into()));
}

#[test]
fn a_disk_that_takes_nothing_refuses_and_is_gone_on_with_when_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let line = "x".repeat(300_000);
    (0..4).for_each(|_| _ = print(&spool, &line));
    // A directory in the place of the next segment refuses to be written, as a full disk does.
    let blocked = dir
        .path()
        .join(SESSION.to_string())
        .join(format!("out-{:019}.spool", 5));
    fs::create_dir(&blocked).unwrap();
    let full = spool.append(SESSION, Stream::Stdout, 1, b"x").unwrap_err();
    assert!(matches!(full, Full::Disk(_)), "{full}");
    spool.drop_line(SESSION, 1, 1, &full);
    assert_eq!(
        spool.append(SESSION, Stream::Stdout, 1, b"x").unwrap(),
        None,
        "counted without waiting"
    );
    fs::remove_dir(blocked).unwrap();
    assert_eq!(print(&spool, "after"), 6);
    assert!(spool.sync());
    let lines = texts(&spool, 4);
    assert!(lines[0].1.contains("2 lines (2 bytes) were dropped here"), "{lines:?}");
    assert_eq!(lines[1], (6, "after".into()));
}

#[test]
fn sessions_that_are_over_and_delivered_leave_after_a_month() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    print(&spool, "a\n");
    assert!(spool.sync());
    let month = newest(dir.path()).unwrap() + KEEP_IDLE * 2;
    spool.tidy(month, |_| false);
    assert_eq!(spool.last_seq(SESSION), 1, "not delivered");
    spool.acknowledge(SESSION, 1).unwrap();
    spool.tidy(month, |_| true);
    assert_eq!(spool.last_seq(SESSION), 1, "in use");
    spool.tidy(month, |_| false);
    assert!(!dir.path().join(SESSION.to_string()).exists());
}

/// A file that takes everything and cannot be synchronised.
fn forgetful() -> File {
    OpenOptions::new().append(true).open("/dev/null").unwrap()
}

#[test]
fn what_could_not_be_made_safe_is_written_anew_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    print(&spool, "a\n");
    assert!(spool.sync());
    print(&spool, "b\n");
    let other = SessionId(Uuid::from_u128(2));
    spool.append(other, Stream::Stdout, 1, b"other\n").unwrap();
    let break_it = || {
        let mut inner = spool.lock();
        inner.track(SESSION).unwrap().lines.append_to(forgetful());
    };
    // Nor can it be written anew: a directory is in the way.
    let aside = dir.path().join(SESSION.to_string()).join(format!("out-{:019}.new", 1));
    fs::create_dir(&aside).unwrap();
    break_it();
    assert!(!spool.sync());
    let safe = |session| {
        spool
            .pending()
            .iter()
            .find(|pending| pending.session_id == session)
            .map(|pending| pending.safe)
    };
    assert_eq!((safe(SESSION), safe(other)), (Some(1), Some(1)));
    assert!(!spool.sync(), "a second try does not pass for a success");
    assert!(matches!(
        spool.append(SESSION, Stream::Stdout, 1, b"c\n"),
        Err(Full::Disk(_))
    ));
    fs::remove_dir(aside).unwrap();
    assert!(spool.sync());
    assert_eq!(print(&spool, "c\n"), 3);
    break_it();
    assert_eq!(print(&spool, "lost in the system's memory\n"), 4);
    assert!(spool.sync());
    let lines = texts(&spool, 0);
    assert_eq!(lines[..3], [(1, "a\n".into()), (2, "b\n".into()), (3, "c\n".into())]);
    assert!(lines[3].1.contains("1 lines were lost"), "{}", lines[3].1);
    drop(spool);
    assert_eq!(print(&open(dir.path()), "d\n"), 5);
}

#[test]
fn a_session_that_cannot_be_opened_keeps_no_other_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    print(&spool, "a\n");
    assert!(spool.sync());
    let broken = dir.path().join(SessionId(Uuid::from_u128(2)).to_string());
    fs::create_dir_all(broken.join(format!("out-{:019}.spool", 1))).unwrap();
    drop(spool);
    assert_eq!(texts(&open(dir.path()), 0), [(1, "a\n".into())]);
}

/// What may happen to a spool.
#[derive(Clone, Debug)]
enum Act {
    Print(usize),
    Sync,
    /// The server stores so many of the lines that were sent, and says so.
    Store(usize),
    /// The agent is killed, and of what was not made safe so many bytes of a thousand are left.
    Kill(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => prop_oneof![0..40usize, 20_000..60_000usize].prop_map(Act::Print),
        2 => Just(Act::Sync),
        3 => (0..30usize).prop_map(Act::Store),
        1 => (0..=1000u64).prop_map(Act::Kill),
    ]
}

/// The server, and the lines that must reach it: those that were safe when the agent was killed, and all after the last kill.
#[derive(Default)]
struct Model {
    printed: Vec<String>,
    safe: usize,
    stored: Vec<String>,
    count: usize,
}

impl Model {
    fn act(&mut self, act: Act, spool: Spool, dir: &Path) -> Spool {
        match act {
            Act::Print(length) => {
                self.count += 1;
                let text = format!("{} {}", self.count, "z".repeat(length));
                assert_eq!(print(&spool, &text), self.printed.len() as i64 + 1);
                self.printed.push(text);
            }
            Act::Sync => {
                assert!(spool.sync());
                self.safe = self.printed.len();
            }
            Act::Store(lines) => {
                let batch = texts(&spool, self.stored.len() as i64);
                for (seq, text) in batch.into_iter().take(lines) {
                    assert_eq!(seq, self.stored.len() as i64 + 1, "no gap and nothing twice");
                    self.stored.push(text);
                }
                spool.acknowledge(SESSION, self.stored.len() as i64).unwrap();
            }
            Act::Kill(left) => return self.kill(left, spool, dir),
        }
        spool
    }

    fn kill(&mut self, left: u64, spool: Spool, dir: &Path) -> Spool {
        drop(spool);
        if let Some((path, safe, length)) = self.last_segment(dir) {
            let cut = safe + (length - safe) * left / 1000;
            OpenOptions::new().write(true).open(path).unwrap().set_len(cut).unwrap();
        }
        let spool = open(dir);
        let last = spool.last_seq(SESSION) as usize;
        assert!(
            (self.safe..=self.printed.len()).contains(&last),
            "{last} of {}",
            self.safe
        );
        self.printed.truncate(last);
        self.safe = last;
        spool
    }

    /// The segment that is appended to, how much of it is safe, and its length.
    fn last_segment(&self, dir: &Path) -> Option<(PathBuf, u64, u64)> {
        let dir = dir.join(SESSION.to_string());
        let mut paths: Vec<_> = fs::read_dir(dir).ok()?.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let path = paths.pop()?;
        let length = fs::metadata(&path).unwrap().len();
        let name = path.file_stem()?.to_str()?.trim_start_matches("out-").to_owned();
        let first: usize = name.parse().ok()?;
        let safe = self.printed.get(first - 1..self.safe.max(first - 1))?;
        let safe = safe.iter().map(|text| record::size(text.as_bytes())).sum::<u64>();
        Some((path, safe.min(length), length))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn no_line_is_lost_or_doubled_and_their_order_is_kept(acts in prop::collection::vec(act(), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        let mut model = Model::default();
        for act in acts {
            spool = model.act(act, spool, dir.path());
            prop_assert_eq!(&model.stored[..], &model.printed[..model.stored.len()]);
        }
        assert!(spool.sync());
        let rest: Vec<_> = texts(&spool, model.stored.len() as i64).into_iter().map(|(_, text)| text).collect();
        prop_assert_eq!(&rest[..], &model.printed[model.stored.len()..]);
    }
}
