//! The caller's credential: where it stands, whether it is this session's local key, and what takes its place.

use ace_policies::secret::Secret;
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{AUTHORIZATION, COOKIE, InvalidHeaderValue, PROXY_AUTHORIZATION},
};
use percent_encoding::percent_decode_str;
use subtle::{Choice, ConstantTimeEq};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const X_GOOG_API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");
const QUERY_KEY: &str = "key";

/// How the caller presented its key, and so how the token is presented for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Bearer,
    ApiKey,
    Google,
}

/// The style of the first place that holds `local_key`. Every place is looked at, in constant time: CLIs send two
/// credentials at once, and not always the same.
pub(super) fn check(headers: &HeaderMap, uri: &Uri, local_key: &Secret) -> Option<Style> {
    let is_key = |candidate: &[u8]| candidate.ct_eq(local_key.expose().as_bytes());
    let any = |candidates: &mut dyn Iterator<Item = Vec<u8>>| {
        bool::from(candidates.fold(Choice::from(0), |found, candidate| found | is_key(&candidate)))
    };
    let bearer = any(&mut headers
        .get_all(AUTHORIZATION)
        .iter()
        .filter_map(bearer_token)
        .map(<[u8]>::to_vec));
    let api_key = any(&mut headers.get_all(X_API_KEY).iter().map(|value| value.as_bytes().to_vec()));
    let google_header = any(&mut headers
        .get_all(X_GOOG_API_KEY)
        .iter()
        .map(|value| value.as_bytes().to_vec()));
    let google_query = any(&mut query_keys(uri));
    match (bearer, api_key, google_header || google_query) {
        (true, _, _) => Some(Style::Bearer),
        (_, true, _) => Some(Style::ApiKey),
        (_, _, true) => Some(Style::Google),
        _ => None,
    }
}

/// Whether the caller speaks Google's dialect as far as its credential tells.
pub(super) fn is_google(headers: &HeaderMap, uri: &Uri) -> bool {
    headers.contains_key(X_GOOG_API_KEY) || query_keys(uri).next().is_some()
}

/// Takes every credential out of the headers; the query's are left out by `query_without_keys`.
pub(super) fn strip(headers: &mut HeaderMap) {
    for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, X_API_KEY, X_GOOG_API_KEY] {
        headers.remove(name);
    }
}

/// The query without its keys, every other byte as it was.
pub(super) fn query_without_keys(uri: &Uri) -> Option<String> {
    let rest: Vec<_> = uri.query()?.split('&').filter(|part| !is_key_part(part)).collect();
    (!rest.is_empty()).then(|| rest.join("&"))
}

/// Puts `token` in as the caller put its key; a key of the query goes into Google's header, because a query string ends
/// up in logs.
pub(super) fn inject(headers: &mut HeaderMap, style: Style, token: &str) -> Result<(), InvalidHeaderValue> {
    let (name, mut value) = match style {
        Style::Bearer => (AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?),
        Style::ApiKey => (X_API_KEY, HeaderValue::try_from(token)?),
        Style::Google => (X_GOOG_API_KEY, HeaderValue::try_from(token)?),
    };
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

fn bearer_token(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token.trim_ascii())
}

fn query_keys(uri: &Uri) -> impl Iterator<Item = Vec<u8>> {
    let parts = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|part| is_key_part(part));
    parts.map(|part| percent_decode_str(part.split_once('=').map_or("", |(_, value)| value)).collect())
}

fn is_key_part(part: &str) -> bool {
    let name = part.split_once('=').map_or(part, |(name, _)| name);
    percent_decode_str(name).eq(QUERY_KEY.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[track_caller]
    fn style(lines: &[(&'static str, &'static str)], uri: &'static str, want: Option<Style>) {
        let local_key = Secret::new("local".to_owned());
        assert_eq!(check(&headers(lines), &Uri::from_static(uri), &local_key), want);
    }

    #[test]
    fn the_key_is_found_wherever_a_cli_puts_it() {
        style(
            &[("authorization", "Bearer local")],
            "/v1/responses",
            Some(Style::Bearer),
        );
        style(&[("authorization", "bearer  local ")], "/", Some(Style::Bearer));
        style(&[("x-api-key", "local")], "/v1/messages?beta=true", Some(Style::ApiKey));
        style(&[("x-goog-api-key", "local")], "/v1beta/models", Some(Style::Google));
        style(&[], "/v1beta/models?alt=sse&key=loc%61l", Some(Style::Google));
        style(
            &[("authorization", "Bearer other"), ("x-api-key", "local")],
            "/",
            Some(Style::ApiKey),
        );
        style(
            &[("authorization", "Bearer local"), ("x-api-key", "local")],
            "/",
            Some(Style::Bearer),
        );
    }

    #[test]
    fn anything_else_is_no_key() {
        style(&[], "/", None);
        style(&[], "/?key=", None);
        style(
            &[
                ("authorization", "Bearer locale"),
                ("x-api-key", "loca"),
                ("cookie", "local"),
            ],
            "/?k=local",
            None,
        );
        style(
            &[("authorization", "local"), ("proxy-authorization", "Bearer local")],
            "/?Key=local",
            None,
        );
    }

    #[test]
    fn the_query_loses_its_keys_and_nothing_else() {
        let rest = |uri| query_without_keys(&Uri::from_static(uri));
        assert_eq!(
            rest("/p?alt=sse&key=x&a=%20+b&&k%65y=y&b").as_deref(),
            Some("alt=sse&a=%20+b&&b")
        );
        assert_eq!(rest("/p?key=x"), None);
        assert_eq!(rest("/p"), None);
    }

    #[test]
    fn the_token_takes_the_place_of_all_credentials() {
        let mut headers = headers(&[
            ("authorization", "Bearer a"),
            ("x-api-key", "b"),
            ("x-goog-api-key", "c"),
            ("cookie", "d"),
            ("x-app", "cli"),
        ]);
        strip(&mut headers);
        inject(&mut headers, Style::ApiKey, "t").unwrap();
        assert_eq!(headers.len(), 2);
        assert!(headers["x-api-key"].is_sensitive());
    }
}
