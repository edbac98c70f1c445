//! Tables for spreadsheets: CSV as RFC 4180 has it.

use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::form_urlencoded;
use utoipa::ToSchema;

use crate::error::ApiError;

/// The most rows of one table.
pub(crate) const MAX_ROWS: i64 = 10_000;

/// In which form a list is asked for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Json,
    Csv,
}

/// The rows as a file to save: of each its fields that `columns` names. `next` is the address of the next page, which the header `link`
/// tells.
pub(crate) fn answer<T: Serialize>(
    file: &str,
    columns: &[&str],
    rows: &[T],
    next: Option<String>,
) -> Result<Response, ApiError> {
    let table = table(columns, rows).map_err(ApiError::internal)?;
    let mut response = ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], table).into_response();
    let headers = response.headers_mut();
    let disposition = format!("attachment; filename=\"{file}.csv\"");
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::try_from(disposition).map_err(ApiError::internal)?,
    );
    if let Some(next) = next {
        let link = format!("<{next}>; rel=\"next\"");
        headers.insert(header::LINK, HeaderValue::try_from(link).map_err(ApiError::internal)?);
    }
    Ok(response)
}

/// The address of the page after one that ended at `after`.
pub(crate) fn next_page(of: &Uri, after: &str) -> String {
    let query = of.query().unwrap_or_default().as_bytes();
    let same = form_urlencoded::parse(query).filter(|(name, _)| name != "after");
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(same)
        .append_pair("after", after)
        .finish();
    format!("{}?{query}", of.path())
}

fn table<T: Serialize>(columns: &[&str], rows: &[T]) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    writer.write_record(columns)?;
    for row in rows {
        let row = serde_json::to_value(row)?;
        writer.write_record(columns.iter().map(|column| cell(&row[*column])))?;
    }
    Ok(writer.into_inner().map_err(|error| error.to_string())?)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => guarded(text),
        other => other.to_string(),
    }
}

/// Keeps a spreadsheet from taking a text for a formula. Numbers are no texts: they may begin with a minus.
fn guarded(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        "'"
    } else {
        ""
    };
    format!("{guard}{text}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sheet_takes_no_text_for_a_formula_and_no_number_for_a_text() {
        assert_eq!(cell(&json!("plain")), "plain");
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"] {
            assert_eq!(cell(&json!(formula)), format!("'{formula}"));
        }
        assert_eq!(cell(&json!(-1)), "-1");
        assert_eq!(cell(&json!(null)), "");
        assert_eq!(cell(&json!({ "a": [1] })), r#"{"a":[1]}"#);
    }

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let rows = [
            json!({ "a": "say \"hi\", twice", "b": true }),
            json!({ "a": "two\nlines" }),
        ];
        let table = String::from_utf8(table(&["a", "b"], &rows).unwrap()).unwrap();
        assert_eq!(table, "a,b\r\n\"say \"\"hi\"\", twice\",true\r\n\"two\nlines\",\r\n");
    }

    #[test]
    fn the_next_page_is_asked_as_this_one_was() {
        let next = |uri: &'static str| next_page(&Uri::from_static(uri), "5.7");
        assert_eq!(next("/api/usage"), "/api/usage?after=5.7");
        assert_eq!(
            next("/api/usage?model=a%26b&after=1.2&limit=3"),
            "/api/usage?model=a%26b&limit=3&after=5.7"
        );
    }
}
