//! The request's head on its way to the gateway: same method, path and headers, less what belongs to this hop.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{CONNECTION, EXPECT, HOST, PROXY_AUTHENTICATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
    request,
};
use percent_encoding::percent_decode_str;
use url::Url;

use super::{Config, credential, refusal::Refusal};

/// The data plane's prefix. The relay leads there and nowhere else: a CLI that a model drives has no way through it to
/// the control API.
const DATA_PLANE: &str = "/api/remote/llm-proxy";

const X_ACE_SESSION: HeaderName = HeaderName::from_static("x-ace-session");
const X_ACE_MACHINE: HeaderName = HeaderName::from_static("x-ace-machine");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The caller's head as the gateway gets it, without a credential yet.
pub(super) fn outgoing(caller: &request::Parts, config: &Config) -> Result<request::Parts, Refusal> {
    if caller.method == Method::CONNECT || !caller.uri.path().starts_with('/') {
        return Err(Refusal::Target);
    }
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = caller.method.clone();
    head.uri = target(config.gateway.url(), &caller.uri).ok_or(Refusal::Target)?;
    head.headers = caller.headers.clone();
    strip_hop_by_hop(&mut head.headers);
    credential::strip(&mut head.headers);
    // The host is the gateway's; a `100 Continue` was this hop's affair and is answered here.
    for name in [HOST, EXPECT] {
        head.headers.remove(name);
    }
    attribute(&mut head.headers, config);
    Ok(head)
}

fn target(gateway: &Url, caller: &Uri) -> Option<Uri> {
    // Nothing on the way may climb out of the data plane's prefix.
    if caller
        .path()
        .split('/')
        .any(|segment| percent_decode_str(segment).eq(*b".."))
    {
        return None;
    }
    let base = gateway.as_str().trim_end_matches('/');
    let base = base.strip_suffix(DATA_PLANE).unwrap_or(base);
    let path = caller.path().strip_prefix(DATA_PLANE).unwrap_or(caller.path());
    let query = credential::query_without_keys(caller)
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    format!("{base}{DATA_PLANE}{path}{query}").parse().ok()
}

/// Says whose traffic this is; what the caller says about itself under our names is dropped.
fn attribute(headers: &mut HeaderMap, config: &Config) {
    let ours: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-ace-"))
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
    let session = config.session.map(|id| (X_ACE_SESSION, id.to_string()));
    let machine = config.machine.map(|id| (X_ACE_MACHINE, id.to_string()));
    for (name, id) in session.into_iter().chain(machine) {
        if let Ok(value) = HeaderValue::try_from(id) {
            headers.insert(name, value);
        }
    }
}

/// Removes the headers of one connection, and those that `Connection` names.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let fixed = [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in named.into_iter().chain(fixed) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn goes_to(gateway: &str, caller: &'static str, want: &str) {
        let target = target(&Url::parse(gateway).unwrap(), &Uri::from_static(caller));
        assert_eq!(target.unwrap().to_string(), want);
    }

    #[test]
    fn every_path_leads_to_the_data_plane() {
        let plane = "https://ace.example.com/api/remote/llm-proxy";
        goes_to(
            "https://ace.example.com",
            "/v1/messages?beta=true",
            &format!("{plane}/v1/messages?beta=true"),
        );
        goes_to(plane, "/v1/responses", &format!("{plane}/v1/responses"));
        goes_to(
            &format!("{plane}/"),
            "/api/remote/llm-proxy/v1/models?key=k",
            &format!("{plane}/v1/models"),
        );
        goes_to("https://ace.example.com", "/api/users", &format!("{plane}/api/users"));
        goes_to("https://ace.example.com", "/", &format!("{plane}/"));
        goes_to(
            "http://127.0.0.1:5000/edge/",
            "/v1/a%2Fb",
            "http://127.0.0.1:5000/edge/api/remote/llm-proxy/v1/a%2Fb",
        );
        goes_to(
            "https://ace.example.com",
            "http://other.example/v1/models",
            &format!("{plane}/v1/models"),
        );
    }

    #[test]
    fn no_path_climbs_out_of_the_data_plane() {
        let gateway = Url::parse("https://ace.example.com").unwrap();
        for path in ["/../users", "/v1/%2e%2E/..", "/..", "/api/remote/llm-proxy/../../users"] {
            assert!(target(&gateway, &Uri::from_static(path)).is_none(), "{path}");
        }
    }

    #[test]
    fn headers_of_the_hop_go_and_the_others_stay() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("anthropic-beta", "a,b"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["anthropic-beta", "content-length"]);
    }
}
