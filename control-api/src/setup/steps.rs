//! The steps, in the order in which they are taken.

use sqlx::Row;

use super::Step;
use crate::App;
use crate::error::ApiError;

/// Each a column of one row: whether it is done.
const LOOK: &str = "SELECT
    CASE WHEN EXISTS (SELECT 1 FROM users WHERE role = 'admin' AND is_active = 1 AND must_change_password = 0)
        THEN 1 ELSE 0 END AS admin_password,
    CASE WHEN EXISTS (SELECT 1 FROM api_key_store WHERE is_active = 1) THEN 1 ELSE 0 END AS provider_key,
    CASE WHEN EXISTS (SELECT 1 FROM remote_machines) THEN 1 ELSE 0 END AS machine_registered,
    CASE WHEN EXISTS (SELECT 1 FROM remote_machines WHERE authenticated_at IS NOT NULL)
        THEN 1 ELSE 0 END AS machine_connected,
    CASE WHEN EXISTS (SELECT 1 FROM machine_assignments JOIN users ON users.id = machine_assignments.user_id
                      WHERE users.role = 'user') THEN 1 ELSE 0 END AS user_assigned,
    CASE WHEN EXISTS (SELECT 1 FROM agent_sessions) THEN 1 ELSE 0 END AS first_session,
    CASE WHEN EXISTS (SELECT 1 FROM request_ledger WHERE charged_requests > 0) THEN 1 ELSE 0 END AS first_request";

/// Id, which is the column's name; title; how it is done; the request that does it.
const STEPS: [(&str, &str, &str, &str); 7] = [
    (
        "admin_password",
        "The admin's generated password is changed",
        "Log in as admin with the password that the first start printed, and choose another.",
        "POST /api/auth/change-password",
    ),
    (
        "provider_key",
        "A provider key is stored",
        "Store the API key of OpenAI, Anthropic or Google; without one no request can be forwarded.",
        "POST /api/remote/api-keys",
    ),
    (
        "machine_registered",
        "A machine is registered",
        "Make a registration token, and run the command that comes with it on the machine.",
        "POST /api/remote/machines/register",
    ),
    (
        "machine_connected",
        "Its agent has connected",
        "See on the machine how the agent is: `ace-agent status` and `ace-agent doctor`.",
        "GET /api/remote/machines",
    ),
    (
        "user_assigned",
        "A user is assigned to a machine",
        "Make a user, and give them the permission `user` or `admin` on the machine.",
        "POST /api/remote/machines/{id}/assign",
    ),
    (
        "first_session",
        "A session was started",
        "Start one on the machine: a project folder, a CLI, and what it is to do.",
        "POST /api/remote/sessions",
    ),
    (
        "first_request",
        "An LLM request was metered",
        "Send a message in the session, or point a tool at this gateway with a proxy token.",
        "POST /api/remote/sessions/{id}/chat",
    ),
];

pub(super) async fn list(app: &App) -> Result<Vec<Step>, ApiError> {
    let row = sqlx::query(LOOK).fetch_one(&app.db().read).await?;
    let step = |(id, title, how, operation): (&'static str, &'static str, &'static str, &'static str)| {
        Ok(Step {
            id,
            done: row.try_get::<i64, _>(id)? != 0,
            title,
            how,
            operation,
        })
    };
    STEPS.into_iter().map(step).collect()
}
