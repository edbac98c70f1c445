//! The routes that there are, as method and template of the path.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::app::routes;

pub(super) type Route = (String, String);

/// Every route of the router.
pub(super) fn served() -> BTreeSet<Route> {
    let document = routes().to_openapi().to_json().unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let mut served = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            served.insert((method.to_uppercase(), path.clone()));
        }
    }
    served
}

/// The route that serves a path: of those that match, the one with the most fixed parts.
pub(super) fn of(served: &BTreeSet<Route>, method: &str, path: &str) -> Option<Route> {
    let path = path.split('?').next()?;
    let matching = served
        .iter()
        .filter(|(theirs, template)| theirs == method && matches(template, path));
    matching.max_by_key(|(_, template)| fixed(template)).cloned()
}

fn fixed(template: &str) -> usize {
    template.split('/').filter(|part| !part.starts_with('{')).count()
}

fn matches(template: &str, path: &str) -> bool {
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            // A tail takes all the rest.
            (Some(part), Some(_)) if part.starts_with("{*") => return true,
            (Some(part), Some(given)) if part.starts_with('{') || part == given => {}
            _ => return false,
        }
    }
}

/// A path and body to begin with for a route that has no line.
pub(super) fn draft(method: &str, template: &str) -> (String, &'static str) {
    let mut parts: Vec<String> = Vec::new();
    for part in template.split('/') {
        let draft = match (part.starts_with('{'), parts.last().map(String::as_str)) {
            (false, _) => part,
            (true, Some("machines")) => "{machine}",
            (true, Some("sessions")) => "{session}",
            (true, Some("assign")) => "{dave}",
            (true, _) => "1",
        };
        parts.push(draft.to_owned());
    }
    let body = if matches!(method, "POST" | "PUT" | "PATCH") {
        "{}"
    } else {
        ""
    };
    (parts.join("/"), body)
}

#[test]
fn a_path_belongs_to_its_most_exact_route() {
    let served =
        ["/m/{id}", "/m/register", "/m/{id}/users", "/f/{*path}"].map(|path| ("GET".to_owned(), path.to_owned()));
    let served = BTreeSet::from(served);
    for (path, expected) in [
        ("/m/{machine}", Some("/m/{id}")),
        ("/m/register", Some("/m/register")),
        ("/m/{machine}/users?limit=1", Some("/m/{id}/users")),
        ("/f/linux/agent", Some("/f/{*path}")),
        ("/m", None),
        ("/m/1/2/3", None),
    ] {
        let found = of(&served, "GET", path).map(|(_, template)| template);
        assert_eq!(found.as_deref(), expected, "{path}");
        assert_eq!(of(&served, "PUT", path), None);
    }
}
