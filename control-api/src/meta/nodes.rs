//! How the parts beside the control plane itself are: gateways, nodes, machines, queues.

use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use crate::App;
use crate::background::NODE_LEASE_MS;
use crate::error::ApiError;
use crate::machines::seen_since;
use crate::when::When;

/// What runs, and what waits.
#[derive(Serialize, ToSchema)]
pub(super) struct Parts {
    gateways: Vec<Gateway>,
    control_nodes: Vec<ControlNode>,
    machines: Machines,
    commands: Queue,
    /// Webhook deliveries that are due, those that wait after a failure included.
    webhooks: Queue,
    /// Events that were not told on yet.
    events: Queue,
    webhooks_disabled: i64,
    /// LLM requests that are under way for longer than a moment.
    open_requests: i64,
    /// When the newest row of the request ledger was begun.
    last_request_at: Option<When>,
}

/// A process of the data plane that holds leases on limits.
#[derive(Serialize, ToSchema)]
struct Gateway {
    instance_id: String,
    gateway_id: String,
    /// False: it has died, or is cut off from the database.
    alive: bool,
    started_at: When,
    expires_at: When,
}

#[derive(Serialize, ToSchema)]
struct ControlNode {
    node_id: String,
    version: String,
    /// Whether it is the one that answers this.
    this: bool,
    alive: bool,
    started_at: When,
    seen_at: When,
}

#[derive(Serialize, ToSchema)]
struct Machines {
    total: i64,
    online: i64,
    connected: i64,
}

#[derive(Serialize, ToSchema)]
struct Queue {
    waiting: i64,
    oldest_at: Option<When>,
}

impl Parts {
    pub async fn read(app: &App) -> Result<Self, ApiError> {
        let now = app.now();
        let row = sqlx::query(LOOK)
            .bind(seen_since(now))
            .bind(now)
            .fetch_one(&app.db().read)
            .await?;
        Ok(Self {
            gateways: gateways(app).await?,
            control_nodes: control_nodes(app).await?,
            machines: Machines {
                total: row.try_get("machines")?,
                online: row.try_get("online")?,
                connected: row.try_get("connected")?,
            },
            commands: Queue::read(&row, "commands", "oldest_command")?,
            webhooks: Queue::read(&row, "deliveries", "oldest_delivery")?,
            events: Queue::read(&row, "events", "oldest_event")?,
            webhooks_disabled: row.try_get("disabled")?,
            open_requests: row.try_get("open_requests")?,
            last_request_at: row.try_get::<Option<i64>, _>("last_request")?.map(When),
        })
    }
}

const LOOK: &str = "SELECT
    (SELECT COUNT(*) FROM remote_machines) AS machines,
    (SELECT COUNT(*) FROM agent_connections WHERE seen_at > $1) AS online,
    (SELECT COUNT(*) FROM agent_connections WHERE expires_at > $2) AS connected,
    (SELECT COUNT(*) FROM agent_commands WHERE state IN ('queued', 'delivered')) AS commands,
    (SELECT MIN(created_at) FROM agent_commands WHERE state IN ('queued', 'delivered')) AS oldest_command,
    (SELECT COUNT(*) FROM webhook_deliveries WHERE state = 'due') AS deliveries,
    (SELECT MIN(created_at) FROM webhook_deliveries WHERE state = 'due') AS oldest_delivery,
    (SELECT COUNT(*) FROM events WHERE told_at IS NULL) AS events,
    (SELECT MIN(at) FROM events WHERE told_at IS NULL) AS oldest_event,
    (SELECT COUNT(*) FROM webhooks WHERE disabled_at IS NOT NULL) AS disabled,
    (SELECT COUNT(*) FROM open_requests) AS open_requests,
    (SELECT MAX(started_at) FROM request_ledger) AS last_request";

impl Queue {
    fn read(row: &AnyRow, count: &str, oldest: &str) -> Result<Self, sqlx::Error> {
        Ok(Self {
            waiting: row.try_get(count)?,
            oldest_at: row.try_get::<Option<i64>, _>(oldest)?.map(When),
        })
    }
}

async fn gateways(app: &App) -> Result<Vec<Gateway>, ApiError> {
    let rows = sqlx::query("SELECT * FROM ledger_instances ORDER BY started_at, instance_id")
        .fetch_all(&app.db().read)
        .await?;
    let gateway = |row: &AnyRow| {
        let expires_at: i64 = row.try_get("expires_at")?;
        Ok(Gateway {
            instance_id: row.try_get("instance_id")?,
            gateway_id: row.try_get("gateway_id")?,
            alive: expires_at > app.now(),
            started_at: When(row.try_get("started_at")?),
            expires_at: When(expires_at),
        })
    };
    rows.iter().map(gateway).collect()
}

async fn control_nodes(app: &App) -> Result<Vec<ControlNode>, ApiError> {
    let rows = sqlx::query("SELECT * FROM control_nodes ORDER BY started_at, node_id")
        .fetch_all(&app.db().read)
        .await?;
    let own = app.node_id().to_string();
    let node = |row: &AnyRow| {
        let (node_id, seen_at): (String, i64) = (row.try_get("node_id")?, row.try_get("seen_at")?);
        Ok(ControlNode {
            this: node_id == own,
            alive: app.now() - seen_at < NODE_LEASE_MS,
            node_id,
            version: row.try_get("version")?,
            started_at: When(row.try_get("started_at")?),
            seen_at: When(seen_at),
        })
    };
    rows.iter().map(node).collect()
}
