//! Whose connection is a machine's, and how long.

use super::*;
use crate::agents::round;
use crate::testing::{NOON, worlds};
use crate::wakeups::Wakeup;

#[tokio::test]
async fn the_newest_connection_wins_and_quarrels_are_told() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let node = Node::start(&world.app).await;
        let (mut first, _) = node.connect(&mine).await;
        for _ in 0..4 {
            let (second, _) = node.connect(&mine).await;
            let (said, code) = first.closed().await;
            assert_eq!((said[0]["code"].as_str(), code), (Some("replaced"), Some(1008)));
            first = second;
        }
        assert_eq!(told(&world).await, ["machine.online", "machine.conflict"]);
        first.hears_nothing().await;
        first.leave().await;
        until("offline", async || {
            world.number("SELECT COUNT(*) FROM agent_connections").await == 0
        })
        .await;
        assert_eq!(
            told(&world).await,
            ["machine.online", "machine.conflict", "machine.offline"]
        );
        node.stop().await;
    }
}

#[tokio::test]
async fn whoever_loses_its_token_is_disconnected_at_once() {
    for world in worlds().await {
        let (mine, other) = (machine(&world, "mine").await, machine(&world, "other").await);
        let node = Node::start(&world.app).await;
        let ((mut revoked, _), (mut gone, _)) = (node.connect(&mine).await, node.connect(&other).await);
        let mut record = world.app.record().await.unwrap();
        for (sql, machine) in [
            (
                "UPDATE remote_machines SET agent_token_hash = NULL WHERE machine_id = $1",
                &mine,
            ),
            ("DELETE FROM remote_machines WHERE machine_id = $1", &other),
        ] {
            sqlx::query(sql)
                .bind(machine.id.to_string())
                .execute(record.sql())
                .await
                .unwrap();
            record.ring(Wakeup::Machine(machine.id));
        }
        record.commit().await.unwrap();
        assert_eq!(revoked.closed().await.0[0]["code"], "invalid_agent_token");
        assert_eq!(gone.closed().await.1, Some(1008));
        node.stop().await;
    }
}

#[tokio::test]
async fn trap_46_a_machine_is_online_as_long_as_its_agent_is_there() {
    for world in worlds().await {
        let (mine, crashed) = (machine(&world, "mine").await, machine(&world, "crashed").await);
        let node = Node::start(&world.app).await;
        let ((agent, _), (other, _)) = (node.connect(&mine).await, node.connect(&crashed).await);
        drop(other);
        until("the broken connection", async || {
            world
                .number("SELECT COUNT(*) FROM agent_connections WHERE expires_at <= seen_at")
                .await
                == 1
        })
        .await;
        for _ in 0..40 {
            world.clock.advance(Duration::from_secs(5));
            round::go(&world.app).await.unwrap();
        }
        let another = world.another_node().await;
        round::go(&another).await.unwrap();
        assert_eq!(
            told(&world).await,
            ["machine.online", "machine.online", "machine.offline"],
            "told once"
        );
        let there = "SELECT COUNT(*) FROM agent_connections JOIN remote_machines
                     ON remote_machines.machine_id = agent_connections.machine_id WHERE status = 'online'";
        assert_eq!(world.number(there).await, 1);
        agent.leave().await;
        until("good-bye", async || told(&world).await.len() == 4).await;
        assert_eq!(
            world
                .number("SELECT COUNT(*) FROM remote_machines WHERE status = 'offline'")
                .await,
            2
        );
        node.stop().await;
    }
}

#[tokio::test]
async fn a_dead_nodes_agents_lapse() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        sqlx::query(
            "INSERT INTO agent_connections (machine_id, connection_id, node_id, transport, connected_at, seen_at, expires_at)
             VALUES ($1, 'c', 'dead', 'ws', $2, $2, $2 + 15000)",
        )
        .bind(mine.id.to_string())
        .bind(NOON)
        .execute(&world.database.db.write)
        .await
        .unwrap();
        world.clock.advance(Duration::from_secs(179));
        round::go(&world.app).await.unwrap();
        assert_eq!(told(&world).await, [""; 0]);
        world.clock.advance(Duration::from_secs(1));
        for node in [&world.app, &world.another_node().await] {
            round::go(node).await.unwrap();
        }
        assert_eq!(told(&world).await, ["machine.offline"]);
    }
}

#[tokio::test]
async fn at_shutdown_agents_are_sent_elsewhere() {
    for world in worlds().await {
        let mine = machine(&world, "mine").await;
        let node = Node::start(&world.app).await;
        let (mut agent, _) = node.connect(&mine).await;
        let stopping = tokio::spawn(node.stop());
        assert_eq!(agent.closed().await, (vec![], Some(1012)));
        stopping.await.unwrap();
        assert_eq!(told(&world).await, ["machine.online"], "it is expected back");
        let connected = "SELECT COUNT(*) FROM agent_connections WHERE expires_at > seen_at";
        assert_eq!(world.number(connected).await, 0);
    }
}
