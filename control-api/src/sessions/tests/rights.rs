//! A right to a machine that is lost: before somebody acts, or while they wait for the machine's lock.

use std::time::Duration;

use ace_migrations::Engine;
use ace_policies::session::Report;
use ace_policies::{MachineId, UserId};
use serde_json::json;

use super::{at, wish};
use crate::machines;
use crate::record::Record;
use crate::testing::{Answer, Client, World, worlds};

const ALICE: UserId = UserId(2);

/// Takes the machine from Alice as `assignments::revoke` does it, and has not saved it yet.
async fn revoking(world: &World, machine: MachineId) -> Record {
    let mut record = world.app.record().await.unwrap();
    machines::lock(record.sql(), machine, world.app.now()).await.unwrap();
    sqlx::query("DELETE FROM machine_assignments WHERE user_id = $1")
        .bind(ALICE.0)
        .execute(record.sql())
        .await
        .unwrap();
    record
}

/// Waits until a request waits for a lock. SQLite does not tell: there it gets a moment to come so far.
async fn somebody_waits(world: &World) {
    if world.database.db.engine == Engine::Sqlite {
        tokio::time::sleep(Duration::from_millis(300)).await;
        return;
    }
    let waiting =
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while world.number(waiting).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a request is answered that finds the machine locked by a revocation, which is saved then.
async fn meanwhile(
    world: &World,
    machine: MachineId,
    request: impl Future<Output = Answer> + Send + 'static,
) -> Answer {
    let revocation = revoking(world, machine).await;
    let request = tokio::spawn(request);
    somebody_waits(world).await;
    assert!(!request.is_finished(), "it waits for the machine");
    revocation.commit().await.unwrap();
    request.await.unwrap()
}

/// Alice with a session that has ended, on a machine that she is assigned to.
async fn alice(world: &World) -> (Client, MachineId, String, String) {
    let machine = world.host(1).await;
    let alice = world.assigned("alice", machine, "user").await;
    let session = alice.starts(machine).await;
    world.reports(session, 1, Report::Error, None).await;
    (alice, machine, at(session, "/chat"), at(session, "/resume"))
}

#[tokio::test]
async fn who_has_lost_the_machine_can_look_and_stop_but_not_go_on() {
    for world in worlds().await {
        let machine = world.host(7).await;
        let alice = world.assigned("alice", machine, "user").await;
        let id = alice.starts(machine).await;
        world.run("DELETE FROM machine_assignments", &[]).await;
        alice.sees(id).await;
        alice.says(id, "hi").await.refused(403, "not_assigned");
        alice
            .put(&at(id, "/model"), json!({ "model": "m" }))
            .await
            .refused(403, "not_assigned");
        alice.act(id, "/stop").await.ok();
        alice.act(id, "/resume").await.refused(403, "not_assigned");
        world.run("DELETE FROM agent_connections", &[]).await;
        world.run("DELETE FROM remote_machines", &[]).await;
        let refused = alice.act(id, "/resume").await.refused(409, "not_resumable");
        assert_eq!(refused.json["session_status"], "stopped");
        assert_eq!(alice.sees(id).await["machine_name"], "box", "what was stays readable");
    }
}

#[tokio::test]
async fn who_loses_the_machine_meanwhile_starts_nothing_on_it() {
    for world in worlds().await {
        let (alice, machine, ..) = alice(&world).await;
        let create = async move { alice.post("/api/remote/sessions", wish(machine)).await };
        let refused = meanwhile(&world, machine, create).await;
        refused.refused(400, "not_assigned");
        assert_eq!(world.number("SELECT COUNT(*) FROM agent_sessions").await, 1);
    }
}

#[tokio::test]
async fn who_loses_the_machine_meanwhile_starts_nothing_again() {
    for world in worlds().await {
        let (alice, machine, chat, resume) = alice(&world).await;
        let again = alice.clone();
        let chat = async move { again.post(&chat, json!({ "content": "go on" })).await };
        meanwhile(&world, machine, chat).await.refused(403, "not_assigned");
        world.assign(ALICE, machine, "user").await;
        let resume = async move { alice.post(&resume, json!({})).await };
        meanwhile(&world, machine, resume).await.refused(403, "not_assigned");
        assert_eq!(world.commands().await, ["start_session 1 queued"]);
        let live = "SELECT COUNT(*) FROM agent_sessions WHERE status <> 'error'";
        assert_eq!(world.number(live).await, 0);
    }
}

#[tokio::test]
async fn who_is_disabled_meanwhile_starts_nothing() {
    for world in worlds().await {
        let (alice, machine, ..) = alice(&world).await;
        let mut disabling = world.app.record().await.unwrap();
        machines::lock(disabling.sql(), machine, 0).await.unwrap();
        sqlx::query("UPDATE users SET is_active = 0 WHERE id = $1")
            .bind(ALICE.0)
            .execute(disabling.sql())
            .await
            .unwrap();
        let create = tokio::spawn(async move { alice.post("/api/remote/sessions", wish(machine)).await });
        somebody_waits(&world).await;
        disabling.commit().await.unwrap();
        create.await.unwrap().refused(401, "not_authenticated");
    }
}
