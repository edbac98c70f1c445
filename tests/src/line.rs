//! A line to somewhere else that can be cut, and that can fall silent.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A port on loopback from which every connection goes on to another address.
pub struct Line {
    address: SocketAddr,
    traffic: watch::Sender<Traffic>,
    listener: AbortHandle,
}

/// What becomes of what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    Flows,
    /// Nothing gets through, and nobody hears of it.
    Stands,
    /// Connections end, and none begins.
    IsCut,
}

impl Line {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let (traffic, receiver) = watch::channel(Traffic::Flows);
        let task = tokio::spawn(accept(listener, target, receiver));
        Self {
            address,
            traffic,
            listener: task.abort_handle(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, and every one that is tried.
    pub fn cut(&self) {
        self.traffic.send_replace(Traffic::IsCut);
    }

    /// Holds everything up, without a word to anybody.
    pub fn freeze(&self) {
        self.traffic.send_replace(Traffic::Stands);
    }

    /// Goes on, with what was held up.
    pub fn mend(&self) {
        self.traffic.send_replace(Traffic::Flows);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, traffic: watch::Receiver<Traffic>) {
    loop {
        let (near, _) = listener.accept().await.expect("a listener that works");
        let mut traffic = traffic.clone();
        tokio::spawn(async move {
            // However it ends: both sides are closed.
            let _ = pass_on(near, target, &mut traffic).await;
        });
    }
}

async fn pass_on(mut near: TcpStream, target: SocketAddr, traffic: &mut watch::Receiver<Traffic>) -> io::Result<()> {
    flows(traffic).await?;
    let mut far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (mut there, mut back) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        flows(traffic).await?;
        tokio::select! {
            biased;
            changed = traffic.changed() => changed.map_err(io::Error::other)?,
            read = near.read(&mut there) => far.write_all(some(&there, read?)?).await?,
            read = far.read(&mut back) => near.write_all(some(&back, read?)?).await?,
        }
    }
}

/// Waits while the line stands still. An error when it is cut.
async fn flows(traffic: &mut watch::Receiver<Traffic>) -> io::Result<()> {
    let state = *traffic
        .wait_for(|state| *state != Traffic::Stands)
        .await
        .map_err(io::Error::other)?;
    match state {
        Traffic::IsCut => Err(io::ErrorKind::ConnectionReset.into()),
        _ => Ok(()),
    }
}

fn some(buffer: &[u8], read: usize) -> io::Result<&[u8]> {
    match read {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok(&buffer[..read]),
    }
}
