use std::time::Duration;

use ace_policies::{MachineId, SessionId, TenantId, UserId};
use serde_json::{Value, json};

use super::*;
use crate::record::Event;
use crate::testing::{World, config, master, worlds};
use crate::{App, chance};

/// A machine of tenant 1.
pub(crate) async fn machine(world: &World, name: &str) -> MachineId {
    let id = MachineId(chance::id());
    sqlx::query(
        "INSERT INTO remote_machines (machine_id, tenant_id, machine_name, hostname, os_type, os_version, agent_version,
         created_at, authenticated_at) VALUES ($1, 1, $2, $2, 'linux', '6', '1', $3, $3)",
    )
    .bind(id.to_string())
    .bind(name)
    .bind(world.app.now())
    .execute(&world.database.db.write)
    .await
    .unwrap();
    id
}

pub(crate) async fn assign(world: &World, machine: MachineId, user: UserId, permission: &str) {
    sqlx::query("INSERT INTO machine_assignments (machine_id, user_id, permission, granted_at) VALUES ($1, $2, $3, 0)")
        .bind(machine.to_string())
        .bind(user.0)
        .bind(permission)
        .execute(&world.database.db.write)
        .await
        .unwrap();
}

/// A session called `Fix login` on a machine called `prod`.
pub(crate) async fn session(world: &World, machine: MachineId, user: UserId) -> SessionId {
    let id = SessionId(chance::id());
    sqlx::query(
        "INSERT INTO agent_sessions (session_id, user_id, tenant_id, remote_machine_id, machine_name, status,
         project_path, cli_tool, title, created_at, updated_at)
         VALUES ($1, $2, 1, $3, 'prod', 'active', '/src', 'claude-code', 'Fix login', 0, 0)",
    )
    .bind(id.to_string())
    .bind(user.0)
    .bind(machine.to_string())
    .execute(&world.database.db.write)
    .await
    .unwrap();
    id
}

/// Says that something happened.
pub(crate) async fn happens(
    app: &App,
    kind: &'static str,
    user: Option<UserId>,
    machine: Option<MachineId>,
    session: Option<SessionId>,
    data: Value,
) {
    let mut record = app.record().await.unwrap();
    let event = Event {
        kind,
        tenant: TenantId(1),
        user,
        machine,
        session,
        data: &data,
    };
    record.tell(event);
    record.commit().await.unwrap();
}

/// What the inbox of a user says, oldest first.
pub(crate) async fn inbox(world: &World, user: UserId) -> Vec<String> {
    let rows = sqlx::query("SELECT title, body, target FROM notifications WHERE user_id = $1 ORDER BY id")
        .bind(user.0)
        .fetch_all(&world.database.db.read)
        .await
        .unwrap();
    let text = |row: &AnyRow, column: &str| row.try_get::<String, _>(column).unwrap();
    rows.iter()
        .map(|row| format!("{} | {}", text(row, "title"), text(row, "body")))
        .collect()
}

const ADMIN: UserId = UserId(1);

#[tokio::test]
async fn those_whom_it_concerns_are_told_in_words() {
    for world in worlds().await {
        let (alice, bob) = (world.add_user("alice").await, world.add_user("bob").await);
        let machine = machine(&world, "prod").await;
        assign(&world, machine, alice, "user").await;
        assign(&world, machine, bob, "admin").await;
        let session = session(&world, machine, alice).await;
        let app = &world.app;
        let of_session = |kind, data| happens(app, kind, Some(alice), Some(machine), Some(session), data);
        of_session("approval.requested", json!({ "request_id": "r1", "tool_name": "Bash" })).await;
        of_session("session.state", json!({ "status": "active" })).await;
        of_session("session.state", json!({ "status": "completed" })).await;
        of_session(
            "session.state",
            json!({ "status": "error", "error": "the CLI is gone" }),
        )
        .await;
        happens(app, "machine.offline", None, Some(machine), None, json!({})).await;
        happens(app, "machine.online", None, Some(machine), None, json!({})).await;
        tell(app).await.unwrap();
        assert_eq!(
            inbox(&world, alice).await,
            [
                "Bash waits for your answer | “Fix login” on prod asks whether it may use Bash.",
                "A session is done | “Fix login” on prod is done.",
                "A session broke off | “Fix login” on prod could not go on: the CLI is gone",
            ]
        );
        let offline =
            ["prod is offline | The agent on prod is not heard of any more. Sessions on it wait until it is back."];
        assert_eq!(inbox(&world, bob).await, offline);
        assert_eq!(inbox(&world, ADMIN).await, offline);
        assert_eq!(
            world.number("SELECT COUNT(*) FROM events WHERE told_at IS NULL").await,
            0
        );
    }
}

#[tokio::test]
async fn a_question_that_was_answered_is_as_good_as_read_and_is_asked_once() {
    for world in worlds().await {
        let alice = world.add_user("alice").await;
        let machine = machine(&world, "prod").await;
        let session = session(&world, machine, alice).await;
        let ask = json!({ "request_id": "r1", "tool_name": "Bash" });
        for kind in ["approval.requested", "approval.requested", "approval.answered"] {
            happens(&world.app, kind, Some(alice), Some(machine), Some(session), ask.clone()).await;
            tell(&world.app).await.unwrap();
        }
        assert_eq!(inbox(&world, alice).await.len(), 1);
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM notifications WHERE read_at IS NULL")
                .await,
            0
        );
    }
}

#[tokio::test]
async fn several_nodes_share_the_work_and_double_nothing() {
    for world in worlds().await {
        let alice = world.add_user("alice").await;
        let machine = machine(&world, "prod").await;
        let session = session(&world, machine, alice).await;
        for number in 0..40 {
            let ask = json!({ "request_id": format!("r{number}"), "tool_name": "Bash" });
            happens(
                &world.app,
                "approval.requested",
                Some(alice),
                Some(machine),
                Some(session),
                ask,
            )
            .await;
        }
        let mut nodes = Vec::new();
        for _ in 0..4 {
            let db = world.database.open_again().await;
            let node = App::open(db, &master(1), config(), world.clock.clone()).await.unwrap();
            nodes.push(tokio::spawn(async move { tell(&node).await }));
        }
        for node in nodes {
            node.await.unwrap().unwrap();
        }
        tell(&world.app).await.unwrap();
        assert_eq!(inbox(&world, alice).await.len(), 40);
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM events WHERE kind = 'notification.created'")
                .await,
            40
        );
    }
}

async fn passes(world: &World, account: (&str, &str), percent: i64) {
    sqlx::query(
        "INSERT INTO quota_events (at, account_kind, account_id, limit_name, period_start, percent, used, maximum)
         VALUES ($1, $2, $3, 'tokens_per_day', 0, $4, 80, 100)",
    )
    .bind(world.app.now())
    .bind(account.0)
    .bind(account.1)
    .bind(percent)
    .execute(&world.database.db.write)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_threshold_is_told_once_to_whom_it_belongs() {
    for world in worlds().await {
        let alice = world.add_user("alice").await;
        let own = alice.to_string();
        passes(&world, ("user", &own), 80).await;
        passes(&world, ("tenant", "1"), 95).await;
        passes(&world, ("session", &chance::id().to_string()), 80).await;
        let mut bridges = [quota::Bridge::new(&world.app), quota::Bridge::new(&world.app)];
        for _ in 0..3 {
            for bridge in &mut bridges {
                bridge.carry(&world.app).await.unwrap();
            }
            world.clock.advance(Duration::from_secs(30));
        }
        tell(&world.app).await.unwrap();
        let end = "are used | When nothing is left, requests are refused until the limit starts anew.";
        assert_eq!(
            inbox(&world, alice).await,
            [format!("80 % of your tokens per day {end}")]
        );
        let admins = inbox(&world, ADMIN).await;
        assert_eq!(admins[0], format!("95 % of the tenant 1's tokens per day {end}"));
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM events WHERE kind = 'quota.threshold'")
                .await,
            3
        );
    }
}

#[tokio::test]
async fn events_have_ids_in_the_order_in_which_they_can_be_seen() {
    for world in worlds().await {
        let app = &world.app;
        let mut early = app.record().await.unwrap();
        let data = json!({});
        let event = |kind| Event {
            kind,
            tenant: TenantId(1),
            user: None,
            machine: None,
            session: None,
            data: &data,
        };
        early.tell(event("machine.online"));
        // On SQLite there is one writer at a time anyway.
        if world.database.engine() == ace_migrations::Engine::Postgres {
            happens(app, "machine.offline", None, None, None, json!({})).await;
        }
        early.commit().await.unwrap();
        let last = "SELECT COUNT(*) FROM events WHERE kind = 'machine.online'
                    AND id = (SELECT MAX(id) FROM events)";
        assert_eq!(world.number(last).await, 1, "what is saved last has the greatest id");
    }
}
