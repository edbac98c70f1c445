//! Personal API tokens: for programs that act for a user. Shown once, stored as a hash.

use ace_policies::access::{Action, Scope, Standing};
use ace_policies::secret::{self, TokenKind};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::App;
use crate::body::{At, Body};
use crate::chance;
use crate::error::ApiError;
use crate::login::Done;
use crate::visitor::Visitor;
use crate::when::When;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(revoke))
}

/// How many a user may have at once.
const MAX_PER_USER: i64 = 100;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// What it is for, 1 to 100 characters.
    name: String,
    /// Any of `read`, `write`, `llm`, `full`; left out, `full`.
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<Vec<Scope>>,
    /// Left out, it lasts until it is revoked.
    expires_at: Option<When>,
}

#[derive(Serialize, ToSchema)]
struct Token {
    id: i64,
    name: String,
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    created_at: When,
    expires_at: Option<When>,
    last_used_at: Option<When>,
}

#[derive(Serialize, ToSchema)]
struct List {
    success: bool,
    tokens: Vec<Token>,
}

#[derive(Serialize, ToSchema)]
struct Created {
    success: bool,
    /// The token itself, shown this once.
    token: String,
    details: Token,
}

/// Lists the caller's own tokens.
#[utoipa::path(get, path = "/api/tokens", tag = "tokens", responses((status = 200, body = List)))]
async fn list(State(app): State<App>, visitor: Visitor) -> Result<Json<List>, ApiError> {
    let own = Standing {
        owner: Some(visitor.actor.user),
        ..Standing::default()
    };
    visitor.permit(&app, Action::PersonalTokensList, &own).await?;
    let rows = sqlx::query("SELECT * FROM personal_tokens WHERE user_id = $1 AND revoked_at IS NULL ORDER BY id DESC")
        .bind(visitor.actor.user.0)
        .fetch_all(&app.db().read)
        .await?;
    let tokens = rows.iter().map(Token::read).collect::<Result<_, _>>()?;
    Ok(Json(List { success: true, tokens }))
}

/// Makes a token for the caller.
#[utoipa::path(post, path = "/api/tokens", tag = "tokens", request_body = Wish,
    responses((status = 200, body = Created)))]
async fn create(State(app): State<App>, visitor: Visitor, Body(wish): Body<Wish>) -> Result<Json<Created>, ApiError> {
    let permit = visitor
        .permit(&app, Action::PersonalTokensCreate, &Standing::default())
        .await?;
    judge(&wish, app.now())?;
    let scopes = wish.scopes.unwrap_or_else(|| vec![Scope::Full]);
    let token = secret::format(TokenKind::PersonalToken, &chance::bytes());
    let mut write = app.write(&permit, &visitor.edge).await?;
    let count = sqlx::query("SELECT COUNT(*) FROM personal_tokens WHERE user_id = $1 AND revoked_at IS NULL");
    let count: i64 = count
        .bind(visitor.actor.user.0)
        .fetch_one(write.sql())
        .await?
        .try_get(0)?;
    if count >= MAX_PER_USER {
        return Err(ApiError::conflict(
            "too_many_tokens",
            "revoke some of your tokens first",
        ));
    }
    let row = sqlx::query(
        "INSERT INTO personal_tokens (user_id, name, token_hash, scopes, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING *",
    )
    .bind(visitor.actor.user.0)
    .bind(&wish.name)
    .bind(secret::hash(token.expose()))
    .bind(serde_json::to_string(&scopes).map_err(ApiError::internal)?)
    .bind(app.now())
    .bind(wish.expires_at.map(|at| at.0))
    .fetch_one(write.sql())
    .await?;
    let details = Token::read(&row)?;
    write
        .target(format_args!("personal_token:{}", details.id))
        .after(&details)?;
    write.commit().await?;
    Ok(Json(Created {
        success: true,
        token: token.expose().to_owned(),
        details,
    }))
}

/// Revokes a token.
#[utoipa::path(delete, path = "/api/tokens/{id}", tag = "tokens", params(("id" = i64, Path)),
    responses((status = 200, body = Done), (status = 404, body = crate::error::ErrorBody)))]
async fn revoke(State(app): State<App>, visitor: Visitor, At(id): At<i64>) -> Result<Json<Done>, ApiError> {
    let row = sqlx::query("SELECT * FROM personal_tokens WHERE id = $1 AND revoked_at IS NULL").bind(id);
    let row = row.fetch_optional(&app.db().read).await?;
    let owner = row
        .as_ref()
        .map(|row| row.try_get("user_id"))
        .transpose()?
        .map(ace_policies::UserId);
    let permit = visitor
        .permit(
            &app,
            Action::PersonalTokensRevoke,
            &Standing {
                owner,
                ..Standing::default()
            },
        )
        .await?;
    let before = Token::read(&row.ok_or_else(|| ApiError::not_found("token"))?)?;
    let mut write = app.write(&permit, &visitor.edge).await?;
    let revoke = sqlx::query("UPDATE personal_tokens SET revoked_at = $1 WHERE id = $2")
        .bind(app.now())
        .bind(id);
    revoke.execute(write.sql()).await?;
    write.target(format_args!("personal_token:{id}")).before(&before)?;
    write.commit().await?;
    Ok(Done::YES)
}

impl Token {
    fn read(row: &AnyRow) -> Result<Self, ApiError> {
        let scopes: Option<String> = row.try_get("scopes")?;
        let scopes = scopes
            .map(|scopes| serde_json::from_str(&scopes))
            .transpose()
            .map_err(ApiError::internal)?;
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            scopes: scopes.unwrap_or_else(|| vec![Scope::Full]),
            created_at: When(row.try_get("created_at")?),
            expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(When),
            last_used_at: row.try_get::<Option<i64>, _>("last_used_at")?.map(When),
        })
    }
}

fn judge(wish: &Wish, now: i64) -> Result<(), ApiError> {
    if !(1..=100).contains(&wish.name.chars().count()) {
        return Err(ApiError::field("name", "1 to 100 characters are needed"));
    }
    if wish.scopes.as_ref().is_some_and(Vec::is_empty) {
        return Err(ApiError::field("scopes", "name at least one, or leave it out"));
    }
    if wish.expires_at.is_some_and(|at| at.0 <= now) {
        return Err(ApiError::field("expires_at", "must be in the future"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
