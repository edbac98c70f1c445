//! A provider that bills: it writes as many tokens as it is asked for, one event each, tells the usage as the real ones do, and keeps
//! books of its own, which a story compares with the ledger.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::Dialect;
use crate::ask::chunk;
use crate::framing::{BodyReader, Head};

mod order;
mod speech;

pub use order::Order;
use speech::{Job, Speech};

/// A provider on a loopback port that answers every API with what its request's [`Order`] says.
pub struct Biller {
    address: SocketAddr,
    books: Books,
    listener: AbortHandle,
}

/// What was billed for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The id that the answer carried in a header.
    pub id: String,
    pub dialect: Dialect,
    /// The model that was asked for, which is another one in every order.
    pub model: String,
    /// Tokens of the question.
    pub input: u64,
    /// Tokens that were written.
    pub output: u64,
    /// Whether the answer was sent to its end, with the usage. Else it still runs, or the other side has gone.
    pub complete: bool,
    /// Whether nothing happens to it any more.
    pub over: bool,
}

#[derive(Clone, Default)]
struct Books(Arc<Mutex<Vec<Item>>>);

impl Biller {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let books = Books::default();
        let task = tokio::spawn(accept(listener, books.clone()));
        Self {
            address,
            books,
            listener: task.abort_handle(),
        }
    }

    /// Where it is reached, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request that has arrived, in the order of arrival.
    pub fn items(&self) -> Vec<Item> {
        self.books.0.lock().expect("nobody panics over the books").clone()
    }

    /// How many answers are being written.
    pub fn writing(&self) -> usize {
        let books = self.books.0.lock().expect("nobody panics over the books");
        books.iter().filter(|item| !item.over).count()
    }

    /// Waits until nothing is written any more, and gives every request.
    pub async fn closed_books(&self) -> Vec<Item> {
        crate::eventually("the provider to come to rest", async || {
            (self.writing() == 0).then_some(())
        })
        .await;
        self.items()
    }
}

impl Drop for Biller {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Books {
    /// Writes a request down. Gives its number.
    fn enter(&self, job: &Job) -> usize {
        let mut items = self.0.lock().expect("nobody panics over the books");
        let number = items.len();
        items.push(Item {
            id: id(number),
            dialect: job.dialect,
            model: job.model.clone(),
            input: job.input,
            output: 0,
            complete: false,
            over: false,
        });
        number
    }

    fn note(&self, number: usize, change: impl FnOnce(&mut Item)) {
        change(&mut self.0.lock().expect("nobody panics over the books")[number]);
    }
}

fn id(number: usize) -> String {
    format!("req_{number:06}")
}

async fn accept(listener: TcpListener, books: Books) {
    loop {
        let (stream, _) = listener.accept().await.expect("a listener that works");
        stream.set_nodelay(true).expect("a socket that takes options");
        let connection = Connection {
            stream,
            buffer: BytesMut::new(),
            books: books.clone(),
        };
        tokio::spawn(connection.serve());
    }
}

struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
    books: Books,
}

impl Connection {
    async fn serve(mut self) {
        while let Ok(job) = self.job().await {
            let number = self.books.enter(&job);
            let told = self.answer(number, &job).await;
            self.books.note(number, |item| {
                item.complete = told.is_ok();
                item.over = true;
            });
            if told.is_err() {
                return;
            }
        }
    }

    async fn job(&mut self) -> io::Result<Job> {
        let head = loop {
            if let Some(head) = Head::take(&mut self.buffer) {
                break head;
            }
            self.fill().await?;
        };
        let (mut reader, mut body) = (BodyReader::of_request(&head), BytesMut::new());
        loop {
            while let Some(bytes) = reader.next(&mut self.buffer) {
                body.extend_from_slice(&bytes);
            }
            if reader.is_done() {
                return Ok(Job::of(&head, &body));
            }
            self.fill().await?;
        }
    }

    async fn answer(&mut self, number: usize, job: &Job) -> io::Result<()> {
        let id = id(number);
        let speech = Speech::new(job, &id);
        if !job.streams {
            self.rest(job.gap * u32::try_from(job.output).unwrap_or(u32::MAX))
                .await?;
            self.books.note(number, |item| item.output = job.output);
            return self.stream.write_all(speech.whole().as_bytes()).await;
        }
        self.stream.write_all(speech.head().as_bytes()).await?;
        self.say(&speech.begin()).await?;
        for written in 1..=job.output {
            self.rest(job.gap).await?;
            self.say(&speech.token(written)).await?;
            self.books.note(number, |item| item.output = written);
        }
        self.say(&speech.end()).await?;
        self.stream.write_all(b"0\r\n\r\n").await
    }

    async fn say(&mut self, events: &str) -> io::Result<()> {
        match events {
            "" => Ok(()),
            events => self.stream.write_all(&chunk(events.as_bytes())).await,
        }
    }

    /// Waits, and notices when the other side goes.
    async fn rest(&mut self, time: Duration) -> io::Result<()> {
        if time.is_zero() {
            return Ok(());
        }
        match tokio::time::timeout(time, self.fill()).await {
            Err(_) => Ok(()),
            Ok(Ok(())) => Err(io::Error::other("nobody here pipelines")),
            Ok(Err(gone)) => Err(gone),
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
