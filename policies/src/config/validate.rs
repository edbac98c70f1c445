//! What must hold between keys, or is more than a range: the checks after everything is merged.

use std::net::{IpAddr, SocketAddr};

use super::{Config, SecretRef};
use crate::{bind::BindMode, ssrf::EgressAllow};

/// A problem's section, key and message.
type Found = (&'static str, &'static str, String);

/// Everything that is wrong with a configuration whose keys are fine one by one.
pub(super) fn problems(config: &Config) -> Vec<Found> {
    [
        bind(config),
        tls(config),
        limits(config),
        auth(config),
        egress(config),
        database(config),
        ledger(config),
    ]
    .into_iter()
    .flatten()
    .chain(listeners(config))
    .chain(aliases(config))
    .collect()
}

fn bind(config: &Config) -> Option<Found> {
    let host = &config.gateway.custom_bind_host;
    let wanted = config.gateway.bind == BindMode::Custom || !host.is_empty();
    let message = format!("must be an IP address of this host such as \"192.168.1.7\", found \"{host}\"");
    (wanted && host.parse::<IpAddr>().is_err()).then_some(("gateway", "custom_bind_host", message))
}

fn tls(config: &Config) -> Option<Found> {
    let missing = match (config.tls.cert_file.is_empty(), config.tls.key_file.is_empty()) {
        (true, false) => "cert_file",
        (false, true) => "key_file",
        _ => return None,
    };
    Some((
        "tls",
        missing,
        "is needed too: set both cert_file and key_file, or neither".to_owned(),
    ))
}

fn limits(config: &Config) -> Option<Found> {
    let (target, head) = (config.limits.max_target_bytes, config.limits.max_head_bytes);
    let message = format!("must not be more than max_head_bytes ({head}), found {target}");
    (target > head).then_some(("limits", "max_target_bytes", message))
}

fn auth(config: &Config) -> Option<Found> {
    let (ttl, max) = (config.auth.token_ttl_s, config.auth.token_ttl_max_s);
    let message = format!("must not be more than token_ttl_max_s ({max}), found {ttl}");
    (ttl > max).then_some(("auth", "token_ttl_s", message))
}

fn egress(config: &Config) -> Option<Found> {
    EgressAllow::parse(&config.egress.allow)
        .err()
        .map(|error| ("egress", "allow", error.to_string()))
}

fn database(config: &Config) -> Option<Found> {
    let SecretRef::Literal(url) = &config.database.url else {
        return None;
    };
    let known = ["sqlite:", "postgres://", "postgresql://"]
        .iter()
        .any(|start| url.expose().starts_with(start));
    let message = "must begin with sqlite:, postgres:// or postgresql://".to_owned();
    (!known).then_some(("database", "url", message))
}

fn ledger(config: &Config) -> Option<Found> {
    let (batch, queue) = (config.ledger.batch, config.ledger.queue);
    let message = format!("must not be more than queue ({queue}), found {batch}");
    (batch > queue).then_some(("ledger", "batch", message))
}

fn listeners(config: &Config) -> impl Iterator<Item = Found> {
    let listen = [
        ("metrics", "listen", &config.metrics.listen),
        ("control", "listen", &config.control.listen),
    ];
    let wrong = listen
        .into_iter()
        .filter(|(_, _, address)| !address.is_empty() && address.parse::<SocketAddr>().is_err());
    let wrong = wrong.map(|(section, key, address)| {
        (
            section,
            key,
            format!("must be an address and port such as \"127.0.0.1:5001\", found \"{address}\""),
        )
    });
    let nodes = config.control.upstreams.iter().filter(|node| !is_host_and_port(node));
    let nodes = nodes.map(|node| {
        (
            "control",
            "upstreams",
            format!("'{node}' must be a host and port such as \"10.0.0.5:5002\""),
        )
    });
    wrong.chain(nodes)
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    port.parse::<u16>().is_ok_and(|port| port != 0) && url::Host::parse(host).is_ok()
}

/// An alias is looked up once. One that leads to another would work or not depending on who reads it.
fn aliases(config: &Config) -> impl Iterator<Item = Found> {
    let table = &config.models.alias;
    table.iter().filter_map(move |(asked, served)| {
        let wrong = if asked.is_empty() || served.is_empty() {
            "an empty name"
        } else if table.contains_key(served) {
            "another alias; name the provider's model"
        } else {
            return None;
        };
        Some(("models", "alias", format!("'{asked}' = '{served}' has {wrong}")))
    })
}
