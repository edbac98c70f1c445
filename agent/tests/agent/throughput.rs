//! How fast output gets from a session to the server, over the disk.

use std::time::Instant;

use crate::{
    agent::{Agent, SESSION, home},
    server::Server,
};

const LINES: usize = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_lines_get_through() {
    let (_keep, dir) = home();
    let server = Server::start().await;
    let agent = Agent::start(&server, &dir);
    let line = format!("{}\n", "x".repeat(200));
    let begun = Instant::now();
    for _ in 0..LINES {
        agent.print(line.as_str()).await;
    }
    server.until("all lines", |server| server.count(SESSION) == LINES).await;
    let per_second = LINES as f64 / begun.elapsed().as_secs_f64();
    println!("{per_second:.0} lines of 200 bytes a second");
    agent.stop().await;
}
