//! Text with places for what is known when a CLI is started: `{url}`, `{key}` and so on.

use serde::Deserialize;

/// A text with places in it. Other braces, such as those of JSON, stay as they are.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(Vec<Part>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    Place(Place),
}

/// What can be put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Url,
    Key,
    SessionId,
    ResumeId,
    Model,
    PermissionMode,
    Project,
    Dir,
    Home,
    Prompt,
}

const PLACES: [(&str, Place); 10] = [
    ("url", Place::Url),
    ("key", Place::Key),
    ("session_id", Place::SessionId),
    ("resume_id", Place::ResumeId),
    ("model", Place::Model),
    ("permission_mode", Place::PermissionMode),
    ("project", Place::Project),
    ("dir", Place::Dir),
    ("home", Place::Home),
    ("prompt", Place::Prompt),
];

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            parts.push(Part::Text(before.to_owned()));
            rest = match after.split_once('}').filter(|(name, _)| is_name(name)) {
                Some((name, after)) => {
                    parts.push(Part::Place(place(name)?));
                    after
                }
                None => {
                    parts.push(Part::Text("{".to_owned()));
                    after
                }
            };
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn place(name: &str) -> Result<Place, String> {
    let found = PLACES.iter().find(|(known, _)| *known == name);
    found.map(|(_, place)| *place).ok_or_else(|| {
        let known: Vec<String> = PLACES.iter().map(|(name, _)| format!("{{{name}}}")).collect();
        format!("{{{name}}} is none of {}", known.join(", "))
    })
}

impl Template {
    /// The text with its places filled in; none where one of them has nothing to put in.
    pub(super) fn fill<'a>(&self, value: impl Fn(Place) -> Option<&'a str>) -> Option<String> {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Place(place) => value(*place),
        });
        parts.collect()
    }

    pub(super) fn has(&self, place: Place) -> bool {
        self.0.contains(&Part::Place(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Result<Option<String>, String> {
        let template = Template::try_from(text.to_owned())?;
        Ok(template.fill(|place| match place {
            Place::Url => Some("U"),
            Place::Key => Some("{model}"),
            _ => None,
        }))
    }

    #[test]
    fn places_are_filled_and_other_braces_stay() {
        assert_eq!(fill("{url}/v1").unwrap().as_deref(), Some("U/v1"));
        assert_eq!(fill("{key}").unwrap().as_deref(), Some("{model}"), "once only");
        let json = r#"{"a":{"baseURL":"{url}","key":"{env:TOKEN}"},"b":{}}"#;
        assert_eq!(fill(json).unwrap().unwrap(), json.replace("{url}", "U"));
        assert_eq!(fill("--model={model}").unwrap(), None);
        assert!(
            fill("{modell}")
                .unwrap_err()
                .starts_with("{modell} is none of {url}, {key}, ")
        );
    }
}
