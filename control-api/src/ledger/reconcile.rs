//! Compares a provider's usage export with the ledger: request by request where it names them, else day by day and model by model.

use std::collections::{BTreeMap, HashMap};

use ace_policies::quota::Calendar;
use ace_policies::{KeyId, Provider};
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AssertSqlSafe, Row};

use super::export::{Export, Line};
use super::figures::{Figures, Finding, Verdict};
use crate::App;
use crate::when::When;

/// Rows of the ledger that are read at a time.
const BATCH: i64 = 1000;

/// How far the time of a request may differ between them and us: they may note when it ended.
const SLACK_MS: i64 = 6 * 3_600_000;

/// Which rows of the ledger are compared.
pub struct Ours<'a> {
    pub provider: Provider,
    /// Only those that went out with this key.
    pub key: Option<KeyId>,
    /// By which the export's days begin.
    pub calendar: &'a Calendar,
}

/// What came of it, in the order of the export; what is only here comes last.
#[derive(Debug, Default)]
pub struct Reconciled {
    pub findings: Vec<Finding>,
    pub theirs: Figures,
    pub ours: Figures,
}

impl Reconciled {
    /// How many findings there are of a kind.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.verdict() == verdict)
            .count()
    }

    /// Whether both say the same.
    pub fn is_clean(&self) -> bool {
        self.count(Verdict::Match) == self.findings.len()
    }

    fn add(&mut self, finding: Finding) {
        self.theirs.add(&finding.theirs.unwrap_or_default());
        self.ours.add(&finding.ours.unwrap_or_default());
        self.findings.push(finding);
    }
}

const FIGURES: &str =
    "charged_requests, input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens";

impl App {
    /// Compares an export with the ledger. Of ours, what neither was charged nor used a token is not looked at: it never reached the
    /// provider, or came back as an error.
    pub async fn reconcile(&self, export: &Export, ours: &Ours<'_>) -> Result<Reconciled, sqlx::Error> {
        if export.lines.iter().any(|line| line.request_id.is_some()) {
            return self.reconcile_requests(export, ours).await;
        }
        self.reconcile_days(export, ours).await
    }

    async fn reconcile_requests(&self, export: &Export, ours: &Ours<'_>) -> Result<Reconciled, sqlx::Error> {
        let ids = export.lines.iter().enumerate();
        let places: HashMap<&str, usize> = ids
            .filter_map(|(n, line)| Some((line.request_id.as_deref()?, n)))
            .collect();
        let (first, last) = span(&export.lines);
        let mut found: Vec<Option<Figures>> = vec![None; export.lines.len()];
        let mut only_ours = Vec::new();
        let mut after = (first.saturating_sub(SLACK_MS), i64::MIN);
        loop {
            let rows = self.batch(ours, after, last.saturating_add(SLACK_MS)).await?;
            for row in &rows {
                after = (row.try_get("started_at")?, row.try_get("id")?);
                let id: Option<String> = row.try_get("upstream_request_id")?;
                match id.as_deref().and_then(|id| places.get(id)) {
                    Some(place) => found[*place].get_or_insert_default().add(&figures(row)?),
                    None if (first..=last).contains(&after.0) => only_ours.push(unmatched(row, id.as_deref())?),
                    None => {}
                }
            }
            if rows.is_empty() {
                break;
            }
        }
        let mut reconciled = Reconciled::default();
        for (line, ours) in export.lines.iter().zip(found) {
            reconciled.add(Finding {
                what: format!("request {}", line.request_id.as_deref().unwrap_or("without an id")),
                lines: vec![line.number],
                theirs: Some(line.figures),
                ours,
            });
        }
        only_ours.into_iter().for_each(|finding| reconciled.add(finding));
        Ok(reconciled)
    }

    async fn batch(&self, ours: &Ours<'_>, after: (i64, i64), last: i64) -> Result<Vec<AnyRow>, sqlx::Error> {
        let sql = format!(
            "SELECT {FIGURES}, id, started_at, request_id, upstream_request_id FROM request_ledger
             WHERE {OURS} AND (started_at, id) > ($3, $4) AND started_at <= $5 ORDER BY started_at, id LIMIT {BATCH}"
        );
        let query = ours.query(sql).bind(after.0).bind(after.1).bind(last);
        query.fetch_all(&self.db().read).await
    }

    async fn reconcile_days(&self, export: &Export, ours: &Ours<'_>) -> Result<Reconciled, sqlx::Error> {
        let mut groups = groups(&export.lines, ours);
        let (mut at, last) = span(&export.lines);
        while at <= last {
            let day = ours.calendar.day(at);
            for (model, figures) in self.day(ours, day.start_ms, day.end_ms).await? {
                let group = groups.entry((day.start_ms, model)).or_default();
                group.ours.get_or_insert_default().add(&figures);
            }
            at = day.end_ms.max(at + 1);
        }
        // In the order of the export; what only we have comes last.
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, group)| group.lines.first().copied().unwrap_or(u64::MAX));
        let mut reconciled = Reconciled::default();
        for ((day, model), group) in groups {
            reconciled.add(Finding {
                what: format!("day {} model '{model}'", When(day)),
                ..group
            });
        }
        Ok(reconciled)
    }

    /// Our sums of a day by model.
    async fn day(&self, ours: &Ours<'_>, first: i64, end: i64) -> Result<Vec<(String, Figures)>, sqlx::Error> {
        let sums: Vec<_> = FIGURES
            .split(", ")
            .map(|column| format!("CAST(SUM({column}) AS BIGINT)"))
            .collect();
        let sql = format!(
            "SELECT {}, COALESCE(model_served, model_asked, '') FROM request_ledger
             WHERE {OURS} AND started_at >= $3 AND started_at < $4
             GROUP BY COALESCE(model_served, model_asked, '') ORDER BY COALESCE(model_served, model_asked, '')",
            sums.join(", ")
        );
        let rows = ours.query(sql).bind(first).bind(end).fetch_all(&self.db().read).await?;
        let sum = |row: &AnyRow| Ok((ours.model(&row.try_get::<String, _>(6)?), figures(row)?));
        rows.iter().map(sum).collect()
    }
}

/// What a provider may have counted: `$1` is the provider, `$2` the key or 0 for all.
const OURS: &str = "provider = $1 AND ($2 = 0 OR api_key_id = $2)
    AND (charged_requests > 0
         OR input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens + output_tokens > 0)";

impl Ours<'_> {
    /// A statement whose first two values are those of [`OURS`].
    fn query(&self, sql: String) -> Query<'static, Any, AnyArguments> {
        let key = self.key.map_or(0, |key| key.0);
        sqlx::query(AssertSqlSafe(sql)).bind(self.provider.as_str()).bind(key)
    }

    /// A model as the export would call it: Google bills by names without a version at their end.
    fn model(&self, model: &str) -> String {
        let model = model.strip_prefix("models/").unwrap_or(model);
        if self.provider != Provider::Google {
            return model.to_owned();
        }
        let ends = ["-preview", "-exp", "-latest", "-001", "-002"]
            .iter()
            .filter_map(|end| model.find(end));
        model[..ends.min().unwrap_or(model.len())].to_owned()
    }
}

/// The lines of the same day and model together.
fn groups(lines: &[Line], ours: &Ours<'_>) -> BTreeMap<(i64, String), Finding> {
    let mut groups: BTreeMap<(i64, String), Finding> = BTreeMap::new();
    for line in lines {
        let key = (ours.calendar.day(line.at).start_ms, ours.model(&line.model));
        let group = groups.entry(key).or_default();
        group.lines.push(line.number);
        group.theirs.get_or_insert_default().add(&line.figures);
    }
    groups
}

/// From the first to the last time of the lines, both included.
fn span(lines: &[Line]) -> (i64, i64) {
    let times = || lines.iter().map(|line| line.at);
    (times().min().unwrap_or_default(), times().max().unwrap_or_default())
}

fn unmatched(row: &AnyRow, upstream: Option<&str>) -> Result<Finding, sqlx::Error> {
    let id: String = row.try_get("request_id")?;
    Ok(Finding {
        what: format!("request {} ({id})", upstream.unwrap_or("without the provider's id")),
        ours: Some(figures(row)?),
        ..Finding::default()
    })
}

/// The first six columns, which are those of [`FIGURES`].
fn figures(row: &AnyRow) -> Result<Figures, sqlx::Error> {
    let mut ours = [0_i64; 6];
    for (n, figure) in ours.iter_mut().enumerate() {
        *figure = row.try_get(n)?;
    }
    Ok(Figures::ours(ours))
}
