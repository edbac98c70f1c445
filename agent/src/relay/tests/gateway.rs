//! A scripted gateway, and callers of a relay before it.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use http::HeaderMap;
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    sync::mpsc,
};

use super::{super::*, KEY, PATIENCE};
use crate::transport::BreakGlass;

/// A gateway that answers 401 to every token but those it was told of, and otherwise what the path asks for.
#[derive(Default)]
pub struct Gateway {
    pub good: Mutex<HashSet<String>>,
    pub requests: AtomicUsize,
    pub unauthorized: AtomicUsize,
    pub open: AtomicUsize,
    pub seen: Mutex<Vec<(String, HeaderMap, Bytes)>>,
}

pub struct Open(Arc<Gateway>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

impl Gateway {
    pub async fn start() -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Self::listen(listener), address)
    }

    pub fn listen(listener: TcpListener) -> Arc<Self> {
        let gateway = Arc::new(Self::default());
        let accepting = gateway.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let gateway = accepting.clone();
                let service = service_fn(move |request| gateway.clone().answer(request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        gateway
    }

    pub fn accepts(&self, token: &str) {
        self.good.lock().unwrap().insert(token.to_owned());
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<CallerBody>, Infallible> {
        self.requests.fetch_add(1, SeqCst);
        let header = |name: &str| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let token = header("authorization").map(|value| value.replace("Bearer ", ""));
        let token = token
            .or_else(|| header("x-api-key"))
            .or_else(|| header("x-goog-api-key"))
            .unwrap_or_default();
        if !self.good.lock().unwrap().contains(&token) {
            self.unauthorized.fetch_add(1, SeqCst);
            let mut refusal = Response::new(whole(Bytes::from_static(b"{}")));
            *refusal.status_mut() = StatusCode::UNAUTHORIZED;
            return Ok(refusal);
        }
        let (head, body) = request.into_parts();
        if head.uri.path().ends_with("/stream") {
            return Ok(Response::new(self.ticks()));
        }
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        self.seen
            .lock()
            .unwrap()
            .push((head.uri.to_string(), head.headers, body.clone()));
        Ok(Response::new(whole(body)))
    }

    /// One chunk every 50 ms for ever; `open` tells whether somebody still listens.
    fn ticks(self: &Arc<Self>) -> CallerBody {
        self.open.fetch_add(1, SeqCst);
        let open = Open(self.clone());
        let (sender, mut receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while sender.send(Bytes::from_static(b"tick\n")).await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        });
        let stream = futures_util::stream::poll_fn(move |cx| {
            let _held = &open;
            receiver
                .poll_recv(cx)
                .map(|part| part.map(|part| Ok(Frame::data(part))))
        });
        http_body_util::StreamBody::new(stream).boxed_unsync()
    }
}

pub async fn relay(gateway: SocketAddr, change: impl FnOnce(&mut Config)) -> (Relay, TokenFeed) {
    let (feed, tokens) = token_channel();
    let gateway = GatewayUrl::parse(&format!("http://{gateway}"), "the test", BreakGlass::Closed).unwrap();
    let local_key = Secret::new(KEY.to_owned());
    let mut config = Config {
        gateway,
        local_key,
        tokens,
        session: None,
        machine: None,
        port: 0,
        limits: Limits::default(),
    };
    change(&mut config);
    (Relay::start(config).await.unwrap(), feed)
}

pub fn token(text: &str, lives: Duration) -> ProxyToken {
    ProxyToken::new(Secret::new(text.to_owned()), Some(Instant::now() + lives))
}

pub type Caller = Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>;

pub fn caller() -> Caller {
    Client::builder(hyper_util::rt::TokioExecutor::new()).build_http()
}

pub fn post(relay: &Relay, path: &str, header: (&str, &str), body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(format!("{}{path}", relay.base_url())).header(header.0, header.1);
    request.body(Full::new(body.into())).unwrap()
}

pub async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

pub async fn raw(relay: &Relay, request: &str) -> String {
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let has_body = !request.starts_with("HEAD ");
    timeout(PATIENCE, answer_on(&mut stream, has_body)).await.unwrap()
}

/// A whole answer, in lower case, however it arrives.
pub async fn answer_on(stream: &mut TcpStream, has_body: bool) -> String {
    let mut answer = String::new();
    loop {
        let mut piece = vec![0; 4096];
        let read = stream.read(&mut piece).await.unwrap();
        answer.push_str(&String::from_utf8_lossy(&piece[..read]).to_lowercase());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        let is_whole = head.len() < answer.len() && (!has_body || body.len() >= length);
        if is_whole || read == 0 {
            return answer;
        }
    }
}

/// An address where nobody listens yet, and nobody else can.
pub fn reserved() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}
