//! GET /api/notifications.

use ace_policies::UserId;
use ace_policies::access::{Action, Standing};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::body::Params;
use crate::error::ApiError;
use crate::page::{self, Cursor, Filter};
use crate::visitor::Visitor;
use crate::when::When;

/// Which notifications are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// Only those that were not read.
    #[serde(default)]
    unread: bool,
    /// The `next` of the page before.
    after: Option<Cursor>,
    /// At most 500; left out, 50.
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Page {
    success: bool,
    notifications: Vec<Notification>,
    /// How many of all were not read.
    unread: i64,
    /// Give it as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Cursor>,
}

/// Something that one person is told.
#[derive(Serialize, ToSchema)]
struct Notification {
    id: i64,
    /// Such as `approval.requested`.
    kind: String,
    title: String,
    body: String,
    /// Where it leads: `session:<id>`, `machine:<id>`, `quota`, `webhook:<id>`.
    target: String,
    /// What title and body are made of.
    #[schema(value_type = Object)]
    data: Value,
    created_at: When,
    read_at: Option<When>,
}

/// Lists the caller's own notifications, newest first.
#[utoipa::path(get, path = "/api/notifications", tag = "notifications", params(Query),
    responses((status = 200, body = Page)))]
pub(super) async fn list(
    State(app): State<App>,
    visitor: Visitor,
    Params(query): Params<Query>,
) -> Result<Json<Page>, ApiError> {
    visitor
        .permit(&app, Action::NotificationsRead, &Standing::default())
        .await?;
    let mut filter = Filter::default();
    filter.and("user_id =", visitor.actor.user.0);
    if query.unread {
        filter.and("COALESCE(read_at, 0) =", 0);
    }
    filter.below("(created_at, id)", query.after);
    let limit = page::limit(query.limit)?;
    let select = "SELECT * FROM notifications";
    let found = filter
        .page(&app.db().read, select, "created_at DESC, id DESC", limit)
        .await?;
    let notifications = found
        .rows
        .iter()
        .map(Notification::read)
        .collect::<Result<Vec<_>, _>>()?;
    let next = notifications.last().filter(|_| found.more).map(|last| Cursor {
        key: last.created_at.0,
        id: last.id,
    });
    let mut connection = app.db().read.acquire().await?;
    Ok(Json(Page {
        success: true,
        notifications,
        unread: unread(&mut connection, visitor.actor.user).await?,
        next,
    }))
}

/// How many a user has not read.
pub(super) async fn unread(connection: &mut AnyConnection, user: UserId) -> Result<i64, ApiError> {
    let row = sqlx::query("SELECT COUNT(*) FROM notifications WHERE user_id = $1 AND read_at IS NULL")
        .bind(user.0)
        .fetch_one(connection)
        .await?;
    Ok(row.try_get(0)?)
}

impl Notification {
    fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let data: String = row.try_get("data")?;
        Ok(Self {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            title: row.try_get("title")?,
            body: row.try_get("body")?,
            target: row.try_get("target")?,
            data: serde_json::from_str(&data).map_err(ApiError::internal)?,
            created_at: When(row.try_get("created_at")?),
            read_at: row.try_get::<Option<i64>, _>("read_at")?.map(When),
        })
    }
}
