//! A provider that does what its script says and remembers every byte that it was sent.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::framing::{BodyReader, Head};
use crate::{Ca, Piece, Script, Step, eventually};

/// A fake provider on a loopback port.
pub struct Provider {
    pub address: SocketAddr,
    scheme: &'static str,
    stage: Arc<Stage>,
    listener: AbortHandle,
}

/// A request as the provider saw it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub head: Head,
    /// The body without its framing.
    pub body: Bytes,
    /// The same in the pieces in which it was read, with the times.
    pub pieces: Vec<Piece>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// When each step that sends was played.
    pub sent: Vec<Instant>,
    /// When the other side was seen to be gone before the script had ended.
    pub gone: Option<Instant>,
    /// Whether the script was played to its end.
    pub played: bool,
}

#[derive(Default)]
struct Stage {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    connections: usize,
    always: Script,
    once: VecDeque<Script>,
}

impl Provider {
    /// A provider that answers everything with `{"ok":true}` until it is told otherwise.
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// The same behind TLS, HTTP/1.1 only.
    pub async fn start_tls(ca: &Ca) -> Self {
        Self::listen(Some(ca.acceptor(&[b"http/1.1"]))).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let stage = Arc::new(Stage::default());
        stage.lock().always = Script::json(200, &json!({"ok": true}));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let task = tokio::spawn(accept(listener, tls, Arc::clone(&stage)));
        Self {
            address,
            scheme,
            stage,
            listener: task.abort_handle(),
        }
    }

    /// Where it is reached, without a path.
    pub fn url(&self) -> String {
        let host = if self.scheme == "https" {
            "localhost"
        } else {
            "127.0.0.1"
        };
        format!("{}://{host}:{}", self.scheme, self.address.port())
    }

    /// What it does for every request from now on.
    pub fn plays(&self, script: Script) {
        self.stage.lock().always = script;
    }

    /// What it does for the next request that nothing was planned for; several calls make a queue.
    pub fn plays_once(&self, script: Script) {
        self.stage.lock().once.push_back(script);
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.stage.lock().seen.clone()
    }

    /// How many connections it has accepted so far.
    pub fn connections(&self) -> usize {
        self.stage.lock().connections
    }

    /// Forgets what it has seen.
    pub fn forget(&self) {
        self.stage.lock().seen.clear();
    }

    /// The only request so far.
    ///
    /// # Panics
    /// When there were none, or several.
    #[track_caller]
    pub fn request(&self) -> Seen {
        let mut all = self.requests();
        assert_eq!(all.len(), 1, "requests at the provider");
        all.remove(0)
    }

    /// Waits until request number `n`, counted from 0, has arrived.
    pub async fn arrival(&self, n: usize) -> Seen {
        eventually("a request at the provider", async || self.requests().get(n).cloned()).await
    }

    /// Waits until the other side of request number `n` has gone, and says when.
    pub async fn departure(&self, n: usize) -> Instant {
        eventually("the provider's connection to end", async || {
            self.requests().get(n)?.gone
        })
        .await
    }

    /// Stops listening; connections that exist live on.
    pub fn stop_listening(&self) {
        self.listener.abort();
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Seen {
    /// The request line without the version.
    pub fn line(&self) -> &str {
        self.head.first.trim_end_matches(" HTTP/1.1")
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head.get(name)
    }

    /// # Panics
    /// When the body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    /// The headers that carry a credential, wherever a provider would look for one.
    pub fn credentials(&self) -> Vec<(String, String)> {
        let names = [
            "authorization",
            "x-api-key",
            "x-goog-api-key",
            "api-key",
            "proxy-authorization",
            "cookie",
        ];
        let given = names.into_iter().filter(|name| self.head.has(name));
        given
            .map(|name| (name.to_owned(), self.head.all(name).join(", ")))
            .collect()
    }

    /// Everything that arrived, to look for what must not be in it.
    pub fn everything(&self) -> String {
        format!(
            "{}{}",
            String::from_utf8_lossy(&self.head.raw),
            String::from_utf8_lossy(&self.body)
        )
    }
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no story panics while it looks at the stage")
    }

    /// Notes a request and says what to do for it.
    fn enter(&self, head: Head, connection: usize) -> (usize, Script) {
        let mut state = self.lock();
        state.seen.push(Seen {
            head,
            connection,
            ..Seen::default()
        });
        let script = state.once.pop_front().unwrap_or_else(|| state.always.clone());
        (state.seen.len() - 1, script)
    }

    fn note(&self, n: usize, change: impl FnOnce(&mut Seen)) {
        // A story that forgets while a connection is busy has no interest in it.
        if let Some(seen) = self.lock().seen.get_mut(n) {
            change(seen);
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, stage: Arc<Stage>) {
    loop {
        let (tcp, _) = listener.accept().await.expect("a listener that works");
        tcp.set_nodelay(true).expect("a socket that takes options");
        let (stage, tls) = (Arc::clone(&stage), tls.clone());
        let number = {
            let mut state = stage.lock();
            state.connections += 1;
            state.connections - 1
        };
        tokio::spawn(async move {
            match tls {
                None => Connection::new(tcp, number, stage).serve().await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(tcp).await {
                        Connection::new(stream, number, stage).serve().await;
                    }
                }
            }
        });
    }
}

/// What the steps need of a stream beside reading and writing.
trait Wired: AsyncRead + AsyncWrite + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Wired for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wired for tokio_rustls::server::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

struct Connection<S> {
    stream: S,
    number: usize,
    stage: Arc<Stage>,
    buffer: BytesMut,
}

/// The connection is over, for whatever reason.
struct Over;

impl<S: Wired> Connection<S> {
    fn new(stream: S, number: usize, stage: Arc<Stage>) -> Self {
        Self {
            stream,
            number,
            stage,
            buffer: BytesMut::new(),
        }
    }

    async fn serve(mut self) {
        while self.one().await.is_ok() {}
    }

    async fn one(&mut self) -> Result<(), Over> {
        let head = loop {
            if let Some(head) = Head::take(&mut self.buffer) {
                break head;
            }
            self.fill().await.map_err(|_| Over)?;
        };
        let mut body = BodyReader::of_request(&head);
        let expects = head.has("expect");
        let (n, script) = self.stage.enter(head, self.number);
        if !script.before_body {
            if expects {
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            self.read_body(n, &mut body).await?;
        }
        for step in script.steps {
            self.play(n, step).await?;
        }
        self.stage.note(n, |seen| seen.played = true);
        Ok(())
    }

    async fn read_body(&mut self, n: usize, body: &mut BodyReader) -> Result<(), Over> {
        let mut whole = BytesMut::new();
        loop {
            while let Some(bytes) = body.next(&mut self.buffer) {
                whole.extend_from_slice(&bytes);
                self.stage.note(n, |seen| {
                    seen.pieces.push(Piece {
                        at: Instant::now(),
                        bytes,
                    })
                });
            }
            if body.is_done() {
                break;
            }
            if self.fill().await.is_err() {
                self.stage.note(n, |seen| seen.gone = Some(Instant::now()));
                return Err(Over);
            }
        }
        self.stage.note(n, |seen| seen.body = whole.freeze());
        Ok(())
    }

    async fn play(&mut self, n: usize, step: Step) -> Result<(), Over> {
        match step {
            Step::Send(bytes) => {
                self.stage.note(n, |seen| seen.sent.push(Instant::now()));
                let written = self.write(&bytes).await;
                if written.is_err() {
                    self.stage.note(n, |seen| seen.gone = Some(Instant::now()));
                }
                written
            }
            Step::Wait(time) => self.rest(n, tokio::time::sleep(time)).await,
            Step::UntilTold(told) => self.rest(n, told.notified()).await,
            Step::Silence => self.rest(n, std::future::pending()).await,
            Step::Close => {
                self.stage.note(n, |seen| seen.played = true);
                let _ = self.stream.shutdown().await;
                Err(Over)
            }
            Step::Reset => {
                self.stage.note(n, |seen| seen.played = true);
                self.stream
                    .tcp()
                    .set_zero_linger()
                    .expect("a socket that takes options");
                Err(Over)
            }
        }
    }

    /// Does nothing until `end`, but notices when the other side goes.
    async fn rest(&mut self, n: usize, end: impl Future<Output = ()>) -> Result<(), Over> {
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return Ok(()),
                filled = self.fill() => if filled.is_err() {
                    self.stage.note(n, |seen| seen.gone = Some(Instant::now()));
                    return Err(Over);
                }
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(64 * 1024);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.stream.write_all(bytes).await.map_err(|_| Over)?;
        self.stream.flush().await.map_err(|_| Over)
    }
}
