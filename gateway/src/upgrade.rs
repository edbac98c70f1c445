//! Handing the listening sockets to a new process, so that an upgrade refuses no connection.
//!
//! The new process waits on a socket in the state directory; the old one connects to it, passes the state directory's lock and
//! its listening sockets, and goes on serving until the new one says that it is ready. If it never does, the old one stays.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// The most sockets that are passed.
const MAX_SOCKETS: usize = 32;
/// How long the old process waits for the new one to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY: u8 = b'!';

/// What goes from the old process to the new one.
pub struct Handed {
    /// The state directory's lock, which both hold until the old one ends.
    pub lock: File,
    /// The metrics' socket, if there is one.
    pub metrics: Option<TcpListener>,
    /// The public port's sockets.
    pub public: Vec<TcpListener>,
}

/// Where the two processes meet.
pub fn meeting_place(state_dir: &Path) -> PathBuf {
    state_dir.join("upgrade.sock")
}

/// Passes everything on and waits until the new process is ready. An error means that this process must go on serving.
pub fn hand_over(state_dir: &Path, handed: &Handed) -> io::Result<()> {
    let mut stream = UnixStream::connect(meeting_place(state_dir))?;
    let mut fds: Vec<BorrowedFd<'_>> = vec![handed.lock.as_fd()];
    fds.extend(handed.metrics.iter().map(AsFd::as_fd));
    fds.extend(handed.public.iter().map(AsFd::as_fd));
    if fds.len() > MAX_SOCKETS {
        return Err(io::Error::other("too many sockets to pass"));
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let kinds = [u8::from(handed.metrics.is_some())];
    sendmsg(&stream, &[IoSlice::new(&kinds)], &mut control, SendFlags::empty())?;

    stream.set_read_timeout(Some(READY_TIMEOUT))?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    match answer {
        [READY] => Ok(()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// The new process's end of the line to the old one.
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Waits for the old process to pass everything on.
    pub fn meet(state_dir: &Path, patience: Duration) -> io::Result<(Self, Handed)> {
        let path = meeting_place(state_dir);
        if path.exists() {
            fs::remove_file(&path)?;
        }
        let listener = listen(&path)?;
        let stream = accept_within(&listener, patience);
        fs::remove_file(&path)?;
        let stream = stream?;
        let handed = receive(&stream)?;
        Ok((Self(stream), handed))
    }

    /// Tells the old process that it can go.
    pub fn relieve(mut self) -> io::Result<()> {
        self.0.write_all(&[READY])
    }
}

/// Listens at `path`, which is there only once somebody listens: whoever sees it may call at once.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let before = path.with_extension("new");
    if before.exists() {
        fs::remove_file(&before)?;
    }
    let listener = UnixListener::bind(&before)?;
    fs::set_permissions(&before, fs::Permissions::from_mode(0o600))?;
    fs::rename(&before, path)?;
    Ok(listener)
}

fn accept_within(listener: &UnixListener, patience: Duration) -> io::Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + patience;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(_) if Instant::now() >= deadline => {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    "no running gateway handed its sockets over; send it SIGQUIT",
                ));
            }
            Err(_) => pause(),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the program's start, before anything runs that could be held up"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

fn receive(stream: &UnixStream) -> io::Result<Handed> {
    let mut kinds = [0];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut kinds)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    let mut fds = fds.into_iter();
    let lock = fds.next().ok_or(ErrorKind::InvalidData)?;
    let metrics = if kinds == [1] { fds.next() } else { None };
    Ok(Handed {
        lock: lock.into(),
        metrics: metrics.map(Into::into),
        public: fds.map(Into::into).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_lock_arrive_and_the_old_process_hears_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_owned();
        let new = std::thread::spawn(move || {
            let (old, handed) = Predecessor::meet(&path, Duration::from_secs(10)).expect("met");
            old.relieve().expect("told");
            handed
        });
        while !meeting_place(dir.path()).exists() {
            std::thread::yield_now();
        }
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let lock = File::create(dir.path().join("lock")).expect("a file");
        let handed = Handed {
            lock,
            metrics: Some(bind()),
            public: vec![bind(), bind()],
        };
        let addresses = |handed: &Handed| {
            let all = handed.metrics.iter().chain(&handed.public);
            all.map(|listener| listener.local_addr().expect("bound"))
                .collect::<Vec<_>>()
        };
        while let Err(error) = hand_over(dir.path(), &handed) {
            assert!(
                matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound),
                "{error}"
            );
        }
        let got = new.join().expect("ran");
        assert_eq!(addresses(&got), addresses(&handed));
    }

    #[test]
    fn without_a_new_process_the_old_one_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = File::create(dir.path().join("lock")).expect("a file");
        assert!(
            hand_over(
                dir.path(),
                &Handed {
                    lock,
                    metrics: None,
                    public: Vec::new()
                }
            )
            .is_err()
        );
        assert!(Predecessor::meet(dir.path(), Duration::from_millis(30)).is_err());
    }
}
