//! The control API inside this process, or the nodes on which it runs instead.

use std::path::{Path, PathBuf};

use ace_control_api::keys::MasterKeys;
use ace_control_api::{App, Clock, ControlConfig, FirstAdmin, Listener, bootstrap};
use ace_gateway::engine::connect::Origin;
use ace_migrations::Db;
use ace_policies::Secret;
use ace_policies::config::Config;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// A control API that runs here, and how to end it.
pub type Control = Option<(CancellationToken, JoinHandle<()>)>;

/// Opens it, with its first admin; returns the password that was generated for one now.
pub async fn open_control_api(
    config: &Config,
    db: &Db,
    keys: &MasterKeys,
    first: FirstAdmin,
) -> Result<(App, Option<Secret>), Failure> {
    let ca_file = Some(&config.upstream.ca_file).filter(|file| !file.is_empty());
    let ca_pem = ca_file
        .map(std::fs::read)
        .transpose()
        .map_err(|error| Failure::Config(format!("[upstream] ca_file: {error}")))?;
    let mut control = ControlConfig::new(config, ca_pem).map_err(|error| Failure::Config(error.to_string()))?;
    control.agent_program = own_program();
    let app = App::open(db.clone(), keys, control, Clock::System)
        .await
        .map_err(|error| Failure::Control(error.to_string()))?;
    let made = bootstrap(&app, first)
        .await
        .map_err(|error| Failure::Config(error.to_string()))?;
    Ok((app, made.admin_password))
}

/// This very program, which is the agent as well. On Linux by a name that leads to it also after an upgrade has replaced its file.
fn own_program() -> Option<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        return Some(running.to_owned());
    }
    std::env::current_exe().ok()
}

/// Serves it on a socket in the state directory; returns where that is.
pub fn start_control_api(app: App, state_dir: &Path, instance: &str) -> Result<(Vec<Origin>, Control), Failure> {
    let path = state_dir.join(format!("control-{instance}.sock"));
    let listener = Listener::unix(&path).map_err(|error| Failure::Control(format!("{}: {error}", path.display())))?;
    let shutdown = CancellationToken::new();
    let serving = ace_control_api::serve(app, listener, shutdown.clone());
    let task = tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the control API ended");
        }
    });
    Ok((vec![Origin::unix(&path.to_string_lossy())], Some((shutdown, task))))
}

/// The nodes that the configuration names.
pub fn control_nodes(config: &Config) -> Result<Vec<Origin>, Failure> {
    let node = |address: &String| {
        let (host, port) = address.rsplit_once(':')?;
        Some(Origin::control(
            host.trim_start_matches('[').trim_end_matches(']'),
            port.parse().ok()?,
        ))
    };
    let nodes: Option<Vec<_>> = config.control.upstreams.iter().map(node).collect();
    match nodes {
        Some(nodes) if !nodes.is_empty() => Ok(nodes),
        _ => Err(Failure::Config(
            "[control] upstreams: --no-control-api needs the addresses of the control API's nodes".to_owned(),
        )),
    }
}
