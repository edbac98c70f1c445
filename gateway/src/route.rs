//! Where a request goes, by its request line and headers alone: the data plane, the control API, or the gateway itself.
//! Whether its caller may go there is for `credential` and the admission to say.

use std::borrow::Cow;

use ace_policies::provider::Provider;
use http::{HeaderMap, HeaderValue, Method, header};
use percent_encoding::percent_decode_str;

pub use crate::route::api::{Api, ModelPlace};
pub(crate) use crate::route::target::is_key;
pub use crate::route::target::{join_base, kept_query};

mod api;
mod path;
mod target;

/// The data plane's own prefix; what follows it is a provider's path.
pub const PROXY_PREFIX: &str = "/api/remote/llm-proxy";

/// Where the gateway serves its rewritten Gemini upload URLs; the signed grant follows. No provider has such a path.
pub const UPLOAD_PREFIX: &str = "/api/remote/llm-proxy/-/upload/";

#[derive(Debug, PartialEq, Eq)]
pub enum Route<'t> {
    DataPlane(Call),
    /// The second step of a Gemini upload: the signed grant is the only credential.
    Upload(&'t str),
    /// A CLI asks whether somebody is there: 200, no body, no credential asked.
    Probe,
    Health,
    Ready,
    Control,
}

/// A provider's API call. It borrows nothing: paths are offsets into the request target it was made from, and the
/// methods ask for that target again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub provider: Provider,
    /// What told the provider: a token's claim may overrule a header, but not a path.
    pub told_by: ToldBy,
    pub api: Api,
    /// The client asks for a WebSocket, which the gateway does not carry: 426.
    pub websocket: bool,
    path_at: usize,
    path_end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldBy {
    Path,
    Header,
    Default,
    Claim,
}

/// Why a request line is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRefusal {
    /// 400, with what is wrong.
    Bad(&'static str),
    /// 405: `TRACE` would echo the injected key, `CONNECT` asks for a tunnel, and the bare prefix takes `POST`.
    Method,
    /// 403: the path speaks another dialect than the token is for.
    OtherDialect { path: Provider, claim: Provider },
    /// 403: the call would hand out a provider credential that works without the gateway.
    MintsCredential,
}

/// Sorts a request by its method, its raw request target (path and query as received) and its headers.
pub fn route<'t>(method: &Method, target: &'t [u8], headers: &HeaderMap) -> Result<Route<'t>, PathRefusal> {
    let target = path::checked(target)?;
    let (path, query) = split(target);
    match path {
        "/healthz" => return Ok(Route::Health),
        "/readyz" => return Ok(Route::Ready),
        "/" | "/api/hello" if method == Method::HEAD => return Ok(Route::Probe),
        _ => {}
    }
    let Some(path_at) = data_plane(path) else {
        return Ok(Route::Control);
    };
    path::check_segments(path)?;
    if matches!(*method, Method::TRACE | Method::CONNECT) {
        return Err(PathRefusal::Method);
    }
    if let Some(grant) = path.strip_prefix(UPLOAD_PREFIX) {
        return Ok(Route::Upload(grant));
    }
    if method == Method::HEAD && matches!(&path[path_at..], "" | "/" | "/api/hello") {
        return Ok(Route::Probe);
    }
    Call::new(method, path, path_at, query, headers).map(Route::DataPlane)
}

/// Where the provider's path begins, for a path that belongs to the data plane.
fn data_plane(path: &str) -> Option<usize> {
    const NATIVE: [&str; 7] = [
        "/v1",
        "/v1beta",
        "/v1alpha",
        "/upload/v1",
        "/upload/v1beta",
        "/chat/completions",
        "/responses",
    ];
    let below = |prefix: &str| {
        path.strip_prefix(prefix)
            .map(|rest| (rest.starts_with('/'), rest.is_empty()))
    };
    match below(PROXY_PREFIX) {
        Some((true, _) | (_, true)) => Some(PROXY_PREFIX.len()),
        Some(_) => None,
        // `/v1` alone calls nothing; `/responses` alone does.
        None => NATIVE
            .iter()
            .any(|native| {
                below(native).is_some_and(|(inside, itself)| inside || (itself && !native.starts_with("/v1")))
            })
            .then_some(0),
    }
}

fn split(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

impl Call {
    fn new(
        method: &Method,
        path: &str,
        path_at: usize,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Self, PathRefusal> {
        let path_at = path_at + path::doubled_version(&path[path_at..]);
        let bare = matches!(&path[path_at..], "" | "/");
        if bare && method != Method::POST {
            return Err(PathRefusal::Method);
        }
        let (told, api) = if bare {
            (None, Api::Main)
        } else {
            api::classify(method, &path[path_at..])?
        };
        let (provider, told_by) = match told {
            Some(provider) => (provider, ToldBy::Path),
            None => told_by_header(query, headers),
        };
        let path_end = if bare { path_at } else { path.len() };
        Ok(Self {
            provider,
            told_by,
            api,
            websocket: asks_websocket(headers),
            path_at,
            path_end,
        })
    }

    /// Settles the call for the token's provider claim, if it has one; without, what the request said stands.
    pub fn with_provider(mut self, claim: Option<Provider>) -> Result<Self, PathRefusal> {
        if let Some(claim) = claim {
            if self.told_by == ToldBy::Path && self.provider != claim {
                return Err(PathRefusal::OtherDialect {
                    path: self.provider,
                    claim,
                });
            }
            if self.told_by != ToldBy::Path {
                (self.provider, self.told_by) = (claim, ToldBy::Claim);
            }
        }
        if self.api == Api::Main {
            self.api = Api::main_of(self.provider).ok_or(PathRefusal::Bad(
                "this provider has no single main call; name the model in the path: /v1beta/models/<model>:generateContent",
            ))?;
        }
        Ok(self)
    }

    /// The dialect that the call, its answer and our refusals speak. It is the provider's, except on Google's
    /// OpenAI-compatible paths.
    pub fn dialect(&self) -> Provider {
        self.api.dialect().unwrap_or(self.provider)
    }

    /// The provider's path: what follows our prefix, or the main call's own path where nothing does.
    pub fn path<'t>(&self, target: &'t [u8]) -> &'t str {
        if self.path_at == self.path_end {
            return Api::main_path(self.provider);
        }
        target
            .get(self.path_at..self.path_end)
            .and_then(|path| std::str::from_utf8(path).ok())
            .unwrap_or("/")
    }

    /// The request target to send: the base URL's own path, the provider's path, and the query without `key=`.
    pub fn upstream_target(&self, base_url: &url::Url, target: &[u8]) -> Vec<u8> {
        join_base(base_url, self.path(target), query(target))
    }

    /// The model that the path names (Gemini): `/v1beta/models/<model>:generateContent`.
    pub fn model_in_path<'t>(&self, target: &'t [u8]) -> Option<Cow<'t, str>> {
        let named = |path: &str| {
            let at = match path.rfind("/models/") {
                Some(at) => at + "/models/".len(),
                None => path.rfind("/tunedModels/")? + 1,
            };
            let end = path.rfind(':').filter(|end| *end > at)?;
            Some(at..end)
        };
        match percent_decode_str(self.path(target)).decode_utf8().ok()? {
            Cow::Borrowed(path) => named(path).map(|range| Cow::Borrowed(&path[range])),
            Cow::Owned(path) => named(&path).map(|range| Cow::Owned(path[range].to_owned())),
        }
    }
}

/// The raw query of a request target.
pub fn query(target: &[u8]) -> Option<&str> {
    let at = memchr::memchr(b'?', target)? + 1;
    std::str::from_utf8(&target[at..]).ok()
}

fn told_by_header(query: Option<&str>, headers: &HeaderMap) -> (Provider, ToldBy) {
    if headers.contains_key("anthropic-version") {
        (Provider::Anthropic, ToldBy::Header)
    } else if headers.contains_key("x-goog-api-key") || query.is_some_and(|query| query.split('&').any(is_key)) {
        (Provider::Google, ToldBy::Header)
    } else {
        (Provider::OpenAi, ToldBy::Default)
    }
}

/// Only WebSockets: `Upgrade: h2c`, which some HTTP libraries always send, is simply not taken up.
fn asks_websocket(headers: &HeaderMap) -> bool {
    let names = |value: &HeaderValue| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|name| name.trim_ascii().eq_ignore_ascii_case(b"websocket"))
    };
    headers.get_all(header::UPGRADE).iter().any(names)
}
