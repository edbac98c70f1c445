//! Ports for programs that come back to where they were.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below what systems give to outgoing connections: nobody is given such a port while its program is away.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// A free port that stays free until it is bound, now and again.
///
/// # Panics
/// When thousands of ports are taken.
pub fn lasting_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Stories are processes of their own: each begins to look elsewhere.
    let from = u16::try_from(std::process::id() * 7 % u32::from(COUNT)).unwrap_or(0);
    let tries = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed)).take(usize::from(COUNT));
    let mut ports = tries.map(|n| FIRST + (from + n % COUNT) % COUNT);
    ports
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}
