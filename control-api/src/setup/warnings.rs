//! What works and should be better, by the configuration and by how this very request came.

use std::net::IpAddr;

use ace_policies::bind::BindMode;
use ace_policies::edge::EdgeHeaders;
use sqlx::Row;

use super::Warning;
use crate::App;
use crate::error::ApiError;
use crate::keys::KeySource;

pub(super) async fn list(app: &App, edge: &EdgeHeaders) -> Result<Vec<Warning>, ApiError> {
    let found = [key(app), plaintext(app, edge), exposed(app), offline(app).await?];
    Ok(found.into_iter().flatten().collect())
}

fn key(app: &App) -> Option<Warning> {
    match app.key_source() {
        KeySource::Configured => None,
        KeySource::SecretKey => Some(Warning {
            code: "encryption_key_derived",
            message: "The key that seals provider keys is derived from SECRET_KEY.",
            hint: "Set OPENACE_ENCRYPTION_KEY (openssl rand -hex 32), keep SECRET_KEY as OPENACE_ENCRYPTION_KEY_PREVIOUS, \
                   and run `ace-control rewrap`.",
        }),
        KeySource::File => Some(Warning {
            code: "encryption_key_generated",
            message: "The key that seals provider keys was generated, and lies in the state directory.",
            hint: "Back encryption.key up apart from the database, or set OPENACE_ENCRYPTION_KEY. Several nodes need it set.",
        }),
    }
}

/// This request was readable on its way. TLS may also end before the gateway, which then cannot know of it.
fn plaintext(app: &App, edge: &EdgeHeaders) -> Option<Warning> {
    (edge.scheme == "http" && !app.config().tls && !is_here(edge.client)).then_some(Warning {
        code: "plaintext",
        message: "This page came over plain http: whoever is on the way reads passwords and tokens.",
        hint: "Set [tls] cert_file and key_file, or put a proxy with TLS, or a tunnel, in front.",
    })
}

fn is_here(client: IpAddr) -> bool {
    client.to_canonical().is_loopback()
}

fn exposed(app: &App) -> Option<Warning> {
    let is_open = !matches!(app.config().bind, BindMode::Loopback | BindMode::Auto);
    (is_open && !app.config().tls).then_some(Warning {
        code: "bind_without_tls",
        message: "The gateway listens beyond this machine without TLS.",
        hint: "Set [tls] cert_file and key_file, or bind to loopback and put a proxy with TLS in front.",
    })
}

/// Machines that are registered and not heard of.
async fn offline(app: &App) -> Result<Option<Warning>, ApiError> {
    let row = sqlx::query(
        "SELECT COUNT(*) FROM remote_machines WHERE authenticated_at IS NOT NULL
         AND machine_id NOT IN (SELECT machine_id FROM agent_connections WHERE seen_at > $1)",
    )
    .bind(app.now() - 180_000)
    .fetch_one(&app.db().read)
    .await?;
    Ok((row.try_get::<i64, _>(0)? > 0).then_some(Warning {
        code: "machines_offline",
        message: "There are machines whose agent is not heard of.",
        hint: "Look at GET /api/remote/machines, and on the machine at `ace-agent doctor`.",
    }))
}
