//! Where a request goes, by its request line and headers alone: the data plane, the control API, or the gateway itself.
//! Whether its caller may go there is for `credential` and the admission to say.

use std::borrow::Cow;

use ace_policies::provider::Provider;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
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

/// Looked up by name they would be parsed for every request.
pub(crate) static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(crate) static X_GOOG_API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");
static ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

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
    /// The client asks for a WebSocket; [`Call::carries_websocket`] tells whether it can have one.
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

    /// The second step of a Gemini upload: where it goes stands in the signed grant, not in a path of ours.
    pub fn upload_step() -> Self {
        Self {
            provider: Provider::Google,
            told_by: ToldBy::Claim,
            api: Api::Upload,
            websocket: false,
            path_at: 0,
            path_end: 0,
        }
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

    /// Whether the call is for the one WebSocket that is carried. Asked for any other, clients fall back to plain HTTP at
    /// a 426.
    pub fn carries_websocket(&self) -> bool {
        self.websocket && self.api == Api::OpenAiRealtime && self.provider == Provider::OpenAi
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

    /// The models that the query names (OpenAI's Realtime): `/v1/realtime?model=<model>`.
    pub fn models_in_query<'t>(&self, target: &'t [u8]) -> impl Iterator<Item = Cow<'t, str>> + use<'t> {
        query(target).into_iter().flat_map(target::models)
    }
}

/// The raw query of a request target.
pub fn query(target: &[u8]) -> Option<&str> {
    let at = memchr::memchr(b'?', target)? + 1;
    std::str::from_utf8(&target[at..]).ok()
}

fn told_by_header(query: Option<&str>, headers: &HeaderMap) -> (Provider, ToldBy) {
    if headers.contains_key(&ANTHROPIC_VERSION) {
        (Provider::Anthropic, ToldBy::Header)
    } else if headers.contains_key(&X_GOOG_API_KEY) || query.is_some_and(|query| query.split('&').any(is_key)) {
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

#[cfg(test)]
mod tests {
    use ace_policies::provider::Provider::{Anthropic, Google, OpenAi};
    use proptest::prelude::*;

    use super::*;

    fn sorted<'t>(method: &str, target: &'t str, headers: &[(&'static str, &str)]) -> Result<Route<'t>, PathRefusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        route(&method.parse().unwrap(), target.as_bytes(), &map)
    }

    #[track_caller]
    fn call(method: &str, target: &str, headers: &[(&'static str, &str)]) -> Call {
        match sorted(method, target, headers) {
            Ok(Route::DataPlane(call)) => call,
            other => panic!("{method} {target}: {other:?}"),
        }
    }

    /// A POST below the proxy prefix and at its native path: both must agree.
    #[track_caller]
    fn calls(path: &str, provider: Provider, api: Api) {
        for prefix in [PROXY_PREFIX, ""] {
            let target = format!("{prefix}{path}");
            let call = call("POST", &target, &[]).with_provider(None).unwrap();
            assert_eq!((call.provider, call.api), (provider, api), "{target}");
        }
    }

    #[test]
    fn the_path_tells_provider_and_api() {
        calls("/v1/chat/completions", OpenAi, Api::OpenAiChat);
        calls("/chat/completions", OpenAi, Api::OpenAiChat);
        calls("/v1/responses", OpenAi, Api::OpenAiResponses);
        calls("/responses", OpenAi, Api::OpenAiResponses);
        calls("/v1/responses/compact", OpenAi, Api::OpenAiResponses);
        calls("/v1/responses/input_tokens", OpenAi, Api::OpenAiInputTokens);
        calls("/v1/responses/resp_1/cancel", OpenAi, Api::Read);
        calls("/v1/completions", OpenAi, Api::OpenAiCompletions);
        calls("/v1/embeddings", OpenAi, Api::OpenAiEmbeddings);
        calls("/v1/images/generations", OpenAi, Api::Other);
        calls("/v1/batches", OpenAi, Api::Batch);
        calls("/v1/messages", Anthropic, Api::AnthropicMessages);
        calls("/v1/messages?beta=true", Anthropic, Api::AnthropicMessages);
        calls(
            "/v1/messages/count_tokens?beta=true",
            Anthropic,
            Api::AnthropicCountTokens,
        );
        calls("/v1/messages/batches", Anthropic, Api::Batch);
        calls(
            "/v1beta/models/gemini-2.5-pro:generateContent",
            Google,
            Api::GoogleGenerate,
        );
        calls(
            "/v1/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
            Google,
            Api::GoogleStreamGenerate,
        );
        calls("/v1beta/tunedModels/mine:generateContent", Google, Api::GoogleGenerate);
        calls("/v1beta/models/g:countTokens", Google, Api::GoogleCountTokens);
        calls("/v1/models/g:batchEmbedContents", Google, Api::GoogleEmbed);
        calls("/v1beta/models/g:embedContent", Google, Api::GoogleEmbed);
        calls("/v1beta/models/g:batchGenerateContent", Google, Api::Batch);
        calls("/v1beta/openai/chat/completions", Google, Api::OpenAiChat);
        calls("/v1beta/cachedContents", Google, Api::Other);
        calls("/upload/v1beta/files", Google, Api::Upload);
        calls("/upload/v1/files?upload_protocol=resumable", Google, Api::Upload);
        calls("/v1/whatever/comes", OpenAi, Api::Other);
    }

    #[test]
    fn a_doubled_version_collapses() {
        for target in ["/v1/v1/messages", "/api/remote/llm-proxy/v1/v1/v1/messages"] {
            let call = call("POST", target, &[]);
            assert_eq!(
                (call.api, call.path(target.as_bytes())),
                (Api::AnthropicMessages, "/v1/messages")
            );
        }
    }

    #[test]
    fn shared_paths_are_told_apart_by_header() {
        for path in [
            "/v1/models",
            "/v1/models/x",
            "/v1/files",
            "/v1/files/f_1",
            "/v1/brand/new",
        ] {
            for prefix in ["", PROXY_PREFIX] {
                let target = format!("{prefix}{path}");
                let told = |headers: &[(&'static str, &str)]| call("GET", &target, headers).provider;
                assert_eq!(told(&[]), OpenAi);
                assert_eq!(told(&[("anthropic-version", "2023-06-01")]), Anthropic);
                assert_eq!(told(&[("x-goog-api-key", "T")]), Google);
                assert_eq!(
                    told(&[("x-goog-api-key", "T"), ("anthropic-version", "2023-06-01")]),
                    Anthropic
                );
                assert_eq!(call("GET", &format!("{target}?key=T"), &[]).provider, Google);
            }
        }
        // A fine-tuned model's name has colons, and is none of Google's methods.
        assert_eq!(call("GET", "/v1/models/ft:gpt-4o:org::id", &[]).api, Api::Models);
        assert_eq!(call("GET", "/v1beta/models", &[]).provider, Google);
    }

    #[test]
    fn the_tokens_claim_wins_over_headers_and_never_over_paths() {
        let models = call("GET", "/v1/models", &[("anthropic-version", "1")]);
        assert_eq!(models.with_provider(Some(Google)).unwrap().provider, Google);
        assert_eq!(models.with_provider(None).unwrap().provider, Anthropic);

        let messages = call("POST", "/v1/messages", &[]);
        assert_eq!(messages.with_provider(Some(Anthropic)).unwrap().provider, Anthropic);
        let refused = PathRefusal::OtherDialect {
            path: Anthropic,
            claim: OpenAi,
        };
        assert_eq!(messages.with_provider(Some(OpenAi)), Err(refused));
    }

    #[test]
    fn the_bare_prefix_is_the_providers_main_call() {
        for target in [
            PROXY_PREFIX.to_owned(),
            format!("{PROXY_PREFIX}/"),
            format!("{PROXY_PREFIX}?beta=true"),
        ] {
            let bare = call("POST", &target, &[]);
            let openai = bare.with_provider(None).unwrap();
            assert_eq!(
                (openai.api, openai.path(target.as_bytes())),
                (Api::OpenAiChat, "/chat/completions")
            );
            let anthropic = bare.with_provider(Some(Anthropic)).unwrap();
            assert_eq!(
                (anthropic.api, anthropic.path(target.as_bytes())),
                (Api::AnthropicMessages, "/v1/messages")
            );
            assert!(matches!(bare.with_provider(Some(Google)), Err(PathRefusal::Bad(_))));
            assert_eq!(sorted("GET", &target, &[]), Err(PathRefusal::Method));
        }
    }

    #[test]
    fn trap_27_probes_need_no_credential_and_only_websockets_are_upgrades() {
        for target in [
            "/",
            "/api/hello",
            PROXY_PREFIX,
            "/api/remote/llm-proxy/",
            "/api/remote/llm-proxy/api/hello",
        ] {
            assert_eq!(sorted("HEAD", target, &[]), Ok(Route::Probe), "{target}");
        }
        assert_eq!(sorted("GET", "/", &[]), Ok(Route::Control));
        assert_eq!(sorted("GET", "/api/hello", &[]), Ok(Route::Control));

        let upgrade = |value: &str| call("GET", "/v1/responses", &[("upgrade", value)]).websocket;
        assert!(upgrade("websocket"));
        assert!(upgrade("h2c, WebSocket"));
        assert!(!upgrade("h2c"));
    }

    #[test]
    fn trap_27_the_one_websocket_that_is_carried_is_openais_realtime() {
        let carried = |method: &str, path: &str| {
            let upgrade = [("upgrade", "websocket"), ("connection", "upgrade")];
            [PROXY_PREFIX, ""].map(|prefix| call(method, &format!("{prefix}{path}"), &upgrade).carries_websocket())
        };
        assert_eq!(carried("GET", "/v1/realtime?model=gpt-realtime"), [true; 2]);
        for path in [
            "/v1/realtime/calls",
            "/v1/responses",
            "/v1beta/openai/realtime",
            "/v1beta/models/g:live",
        ] {
            assert_eq!(carried("GET", path), [false; 2], "{path}");
        }
        assert!(!call("GET", "/v1/realtime?model=gpt-realtime", &[]).carries_websocket());

        let realtime = call("GET", "/v1/realtime", &[]);
        assert_eq!((realtime.api, realtime.provider), (Api::OpenAiRealtime, OpenAi));
        let refused = PathRefusal::OtherDialect {
            path: OpenAi,
            claim: Google,
        };
        assert_eq!(realtime.with_provider(Some(Google)), Err(refused));
    }

    #[test]
    fn the_models_in_a_query() {
        let models = |target: &'static str| {
            let models = call("GET", target, &[]).models_in_query(target.as_bytes());
            models.map(Cow::into_owned).collect::<Vec<_>>()
        };
        assert_eq!(models("/v1/realtime?model=gpt-realtime"), ["gpt-realtime"]);
        assert_eq!(
            models("/v1/realtime?a=b&mod%65l=gpt%2Drealtime&model=x"),
            ["gpt-realtime", "x"]
        );
        assert_eq!(models("/v1/realtime?model&model=%ff"), ["", "\u{fffd}"]);
        assert!(models("/v1/realtime?models=x&Model=x").is_empty());
        assert!(models("/v1/realtime").is_empty());
    }

    #[test]
    fn the_gateways_own_and_the_control_apis_paths() {
        assert_eq!(sorted("GET", "/healthz", &[]), Ok(Route::Health));
        assert_eq!(sorted("GET", "/readyz?verbose", &[]), Ok(Route::Ready));
        let upload = "/api/remote/llm-proxy/-/upload/abc.def";
        assert_eq!(sorted("POST", upload, &[]), Ok(Route::Upload("abc.def")));
        let control = [
            "/",
            "/v1",
            "/v2/x",
            "/api/remote/llm-proxyx",
            "/api/remote/machines",
            "/responsesx",
            "/upload/x",
        ];
        for target in control {
            assert_eq!(sorted("GET", target, &[]), Ok(Route::Control), "{target}");
        }
    }

    #[test]
    fn a_path_that_could_be_read_in_two_ways_is_refused() {
        let tails = [
            "/../machines",
            "/v1/../models",
            "/v1/./models",
            "/v1/models/..",
            "/v1//models",
            "//v1/models",
            "/v1/%2e%2e/models",
            "/v1/.%2E/models",
            "/v1/%2e/models",
            "/v1/..;/models",
            "/v1/models%2fx",
            "/v1/models%2Fx",
            "/v1/models%5cx",
            "/v1/models\\x",
            "/v1/%252e%252e/models",
            "/v1/models%252fx",
            "/v1/models%00",
            "/v1/models%0d%0a",
            "/v1/models%zz",
            "/v1/models%2",
            "/v1/models/x#y",
            "/v1/mod els",
            "/v1/models/\u{1}",
            "/v1/models/é",
            "/v1/models/%ff",
        ];
        for tail in tails {
            let target = format!("{PROXY_PREFIX}{tail}");
            assert!(
                matches!(sorted("GET", &target, &[]), Err(PathRefusal::Bad(_))),
                "{target}"
            );
        }
        for target in [
            "http://other/v1/models",
            "*",
            "",
            "v1/models",
            "/v1/models?a b",
            "/v1/models?a\r\nb",
        ] {
            assert!(
                matches!(sorted("GET", target, &[]), Err(PathRefusal::Bad(_))),
                "{target}"
            );
        }
    }

    #[test]
    fn dots_within_a_segment_are_common() {
        for path in [
            "/v1/models/gpt-4.1",
            "/v1/models/gemini-2%2e5",
            "/v1/files/..a",
            "/v1/files/a..",
            "/v1/files/...",
        ] {
            assert_eq!(call("GET", path, &[]).path(path.as_bytes()), path);
        }
    }

    #[test]
    fn what_would_leak_the_key_is_refused() {
        for method in ["TRACE", "CONNECT"] {
            assert_eq!(sorted(method, "/v1/models", &[]), Err(PathRefusal::Method));
        }
        for path in [
            "/v1/realtime/client_secrets",
            "/v1/realtime/sessions",
            "/v1/realtime/calls",
            "/v1/realtime?model=gpt-realtime",
            "/v1alpha/auth_tokens",
        ] {
            assert_eq!(sorted("POST", path, &[]), Err(PathRefusal::MintsCredential), "{path}");
        }
    }

    #[test]
    fn trap_13_an_encoded_path_is_the_path_that_its_provider_reads() {
        let call = |target| call("POST", target, &[]);
        assert_eq!(call("/v1/models/g%3AgenerateContent").api, Api::GoogleGenerate);
        assert_eq!(call("/v1/m%65ssages").api, Api::AnthropicMessages);
        assert_eq!(call("/v1/chat/completions/").api, Api::OpenAiChat);
        let target = b"/v1beta/models/gem%69ni:generateContent?alt=sse";
        assert_eq!(
            call("/v1beta/models/gem%69ni:generateContent?alt=sse")
                .model_in_path(target)
                .unwrap(),
            "gemini"
        );
    }

    #[test]
    fn trap_13_the_method_that_costs_is_metered_whatever_the_http_method() {
        assert_eq!(
            call("GET", "/v1beta/models/g:generateContent", &[]).api,
            Api::GoogleGenerate
        );
        assert_eq!(call("PUT", "/v1/messages", &[]).api, Api::AnthropicMessages);
        assert_eq!(call("GET", "/v1/responses/resp_1", &[]).api, Api::Read);
    }

    #[test]
    fn the_model_in_a_path() {
        let model = |target: &'static str| {
            call("POST", target, &[])
                .model_in_path(target.as_bytes())
                .map(Cow::into_owned)
        };
        assert_eq!(
            model("/v1beta/models/gemini-2.5-pro:generateContent?x=a:b").unwrap(),
            "gemini-2.5-pro"
        );
        assert_eq!(
            model("/v1beta/tunedModels/mine:generateContent").unwrap(),
            "tunedModels/mine"
        );
        assert_eq!(
            model("/v1/projects/p/publishers/google/models/g:countTokens").unwrap(),
            "g"
        );
        assert_eq!(model("/v1beta/models/:generateContent"), None);
        assert_eq!(model("/v1beta/cachedContents"), None);
    }

    proptest! {
        /// Whatever is forwarded begins with the base URL's own path, has no dot or empty segment, and is a suffix of
        /// what the client sent.
        #[test]
        fn nothing_leaves_the_base_url(tail in "(/[a-z.%0-9:\\\\;]{0,8}){0,5}", base in "(/[a-z]{1,5}){0,2}") {
            let target = format!("{PROXY_PREFIX}{tail}");
            let Ok(Route::DataPlane(call)) = sorted("POST", &target, &[]) else { return Ok(()) };
            let Ok(call) = call.with_provider(None) else { return Ok(()) };
            let base = url::Url::parse(&format!("https://host{base}")).unwrap();
            let sent = String::from_utf8(call.upstream_target(&base, target.as_bytes())).unwrap();
            prop_assert!(sent.starts_with(base.path().trim_end_matches('/')));
            // A URL parser resolves dot segments: it must find none.
            let read = url::Url::parse(&format!("https://host{sent}")).unwrap();
            prop_assert_eq!(read.path(), sent.as_str());
            prop_assert!(!sent.contains("//"));
            prop_assert!(tail.is_empty() || tail == "/" || target.ends_with(call.path(target.as_bytes())));
        }

        /// No request line makes the mapper panic.
        #[test]
        fn any_bytes_are_sorted_or_refused(target in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = route(&Method::POST, &target, &HeaderMap::new());
            let _ = route(&Method::POST, &[b"/v1/", target.as_slice()].concat(), &HeaderMap::new());
        }
    }
}
