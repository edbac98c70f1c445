//! What must hold between keys, or is more than a range: the checks after everything is merged.

use std::net::{IpAddr, SocketAddr};

use super::{Config, SecretRef};
use crate::{bind::BindMode, quota::Calendar, ssrf::EgressAllow};

/// A problem's section, the keys that it may stem from, and the message.
pub(super) type Found = (&'static str, &'static [&'static str], String);

/// Everything that is wrong with a configuration whose keys are fine one by one.
pub(super) fn problems(config: &Config) -> Vec<Found> {
    [
        bind(config),
        tls(config),
        limits(config),
        auth(config),
        egress(config),
        notify(config),
        contact(config),
        database(config),
        ledger(config),
        time_zone(config),
    ]
    .into_iter()
    .flatten()
    .chain(listeners(config))
    .chain(aliases(config))
    .collect()
}

fn bind(config: &Config) -> Option<Found> {
    let host = &config.gateway.custom_bind_host;
    if host.is_empty() && config.gateway.bind == BindMode::Custom {
        let message =
            "mode custom needs custom_bind_host, an IP address of this host such as \"192.168.1.7\"".to_owned();
        return Some(("gateway", &["bind"], message));
    }
    let message = format!("must be an IP address of this host such as \"192.168.1.7\", found \"{host}\"");
    (!host.is_empty() && host.parse::<IpAddr>().is_err()).then_some(("gateway", &["custom_bind_host"], message))
}

fn tls(config: &Config) -> Option<Found> {
    let half = config.tls.cert_file.is_empty() != config.tls.key_file.is_empty();
    let message = "needs its other half: set both cert_file and key_file, or neither".to_owned();
    half.then_some(("tls", &["cert_file", "key_file"], message))
}

fn limits(config: &Config) -> Option<Found> {
    let (target, head) = (config.limits.max_target_bytes, config.limits.max_head_bytes);
    not_more(
        "limits",
        &["max_target_bytes", "max_head_bytes"],
        target as u64,
        head as u64,
    )
}

fn auth(config: &Config) -> Option<Found> {
    let (ttl, max) = (config.auth.token_ttl_s, config.auth.token_ttl_max_s);
    not_more("auth", &["token_ttl_s", "token_ttl_max_s"], ttl, max)
}

fn ledger(config: &Config) -> Option<Found> {
    let (batch, queue) = (config.ledger.batch, config.ledger.queue);
    not_more("ledger", &["batch", "queue"], batch as u64, queue as u64)
}

fn time_zone(config: &Config) -> Option<Found> {
    Calendar::new(&config.quota.time_zone)
        .err()
        .map(|error| ("quota", &["time_zone"][..], error.to_string()))
}

fn not_more(section: &'static str, keys: &'static [&'static str; 2], smaller: u64, greater: u64) -> Option<Found> {
    let [first, second] = keys;
    let message = format!("{first} ({smaller}) must not be more than {second} ({greater})");
    (smaller > greater).then_some((section, keys, message))
}

fn egress(config: &Config) -> Option<Found> {
    EgressAllow::parse(&config.egress.allow)
        .err()
        .map(|error| ("egress", &["allow"][..], error.to_string()))
}

fn notify(config: &Config) -> Option<Found> {
    EgressAllow::parse(&config.notify.allow)
        .err()
        .map(|error| ("notify", &["allow"][..], error.to_string()))
}

/// RFC 8292 §2.1.
fn contact(config: &Config) -> Option<Found> {
    let contact = &config.notify.contact;
    let is_one = contact.is_empty() || contact.starts_with("mailto:") || contact.starts_with("https://");
    let message =
        format!("must be such as \"mailto:admin@example.com\" or \"https://example.com\", found \"{contact}\"");
    (!is_one).then_some(("notify", &["contact"], message))
}

fn database(config: &Config) -> Option<Found> {
    let SecretRef::Literal(url) = &config.database.url else {
        return None;
    };
    let known = ["sqlite:", "postgres://", "postgresql://"]
        .iter()
        .any(|start| url.expose().starts_with(start));
    let message = "must begin with sqlite:, postgres:// or postgresql://".to_owned();
    (!known).then_some(("database", &["url"], message))
}

fn listeners(config: &Config) -> impl Iterator<Item = Found> {
    let listen = [("metrics", &config.metrics.listen), ("control", &config.control.listen)];
    let unreadable = |address: &str| !address.is_empty() && address.parse::<SocketAddr>().is_err();
    let wrong = listen
        .into_iter()
        .filter(move |(_, address)| unreadable(address))
        .map(|(section, address)| {
            let message = format!("must be an address and port such as \"127.0.0.1:5001\", found \"{address}\"");
            (section, &["listen"][..], message)
        });
    let nodes = config
        .control
        .upstreams
        .iter()
        .filter(|node| !is_host_and_port(node))
        .map(|node| {
            let message = format!("'{node}' must be a host and port such as \"10.0.0.5:5002\"");
            ("control", &["upstreams"][..], message)
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
        Some(("models", &["alias"][..], format!("'{asked}' = '{served}' has {wrong}")))
    })
}
