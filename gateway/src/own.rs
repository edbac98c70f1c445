//! What the gateway answers itself: whether it lives and whether it can work.

use std::time::Duration;

use crate::engine::{AnswerHead, Downstream, Served};
use crate::proxy::{Gateway, send};
use crate::ticket::Ticket;

/// CLIs ask whether anybody is there, without a credential: yes.
pub async fn probe(downstream: Downstream, ticket: &Ticket) -> Served {
    let mut head = AnswerHead::new(200, Some(0));
    ticket.stamp(&mut head);
    send(downstream, &head, b"").await
}

/// The process answers.
pub async fn health(downstream: Downstream, ticket: &Ticket) -> Served {
    json(downstream, ticket, 200, r#"{"status":"ok"}"#).await
}

/// Whether requests can be served: the database was heard of lately, the ledger keeps up, the control API answers.
pub async fn ready(gateway: &Gateway, downstream: Downstream, ticket: &Ticket) -> Served {
    let mut reasons = Vec::new();
    if gateway.gate.store().staleness() > gateway.options.max_staleness.min(Duration::from_secs(10)) {
        reasons.push("database");
    }
    if gateway.gate.ledger().is_full() {
        reasons.push("ledger");
    }
    if !gateway.control.is_reachable(&gateway.upstreams).await {
        reasons.push("control_api");
    }
    if reasons.is_empty() {
        return json(downstream, ticket, 200, r#"{"status":"ready"}"#).await;
    }
    let body = serde_json::json!({"status": "not_ready", "reasons": reasons}).to_string();
    json(downstream, ticket, 503, &body).await
}

async fn json(downstream: Downstream, ticket: &Ticket, status: u16, body: &str) -> Served {
    let mut head = AnswerHead::new(status, Some(body.len() as u64));
    head.headers.push("content-type", b"application/json");
    head.headers.push("cache-control", b"no-store");
    ticket.stamp(&mut head);
    send(downstream, &head, body.as_bytes()).await
}
