use std::time::{Duration, Instant};

use ace_policies::MachineId;
use sqlx::Row;

use super::at;
use crate::testing::{Client, World, worlds};

/// Many sessions of a user on a machine, one a second.
async fn many(world: &World, user: i64, machine: MachineId, count: i64) {
    const STEP: i64 = 100;
    for first in (0..count).step_by(100) {
        let rows = (first..first + STEP).map(|number| {
            let id = uuid::Uuid::from_u128(((user as u128) << 64) + number as u128 + (1 << 40));
            format!("('{id}', {user}, 1, '{machine}', 'box', 'stopped', '/srv/app{number}', 'codex', 'title {number}', {number}000, 0, {number}000)")
        });
        let sql = format!(
            "INSERT INTO agent_sessions (session_id, user_id, tenant_id, remote_machine_id, machine_name, status, project_path,
                                         cli_tool, title, created_at, updated_at, ended_at) VALUES {}",
            rows.collect::<Vec<_>>().join(", ")
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&world.database.db.write)
            .await
            .unwrap();
    }
}

fn titles(page: &serde_json::Value) -> Vec<String> {
    let sessions = page["sessions"].as_array().unwrap().iter();
    sessions
        .map(|session| session["title"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test]
async fn everybody_sees_theirs() {
    for world in worlds().await {
        let (one, two) = (world.host(1).await, world.host(2).await);
        let alice = world.assigned("alice", one, "user").await;
        let carol = world.assigned("carol", one, "admin").await;
        let bob = world.assigned("bob", two, "user").await;
        let (hers, his) = (alice.starts(one).await, bob.starts(two).await);
        let carols = carol.starts(one).await;
        let sees = async |client: &Client, path: &str| -> Vec<String> {
            let page = client.get(path).await.ok().json;
            let mut ids: Vec<String> = page["sessions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|s| s["session_id"].as_str().unwrap().to_owned())
                .collect();
            ids.sort();
            ids
        };
        let ids = |all: &[ace_policies::SessionId]| {
            let mut ids: Vec<String> = all.iter().map(ToString::to_string).collect();
            ids.sort();
            ids
        };
        let all = "/api/remote/sessions";
        assert_eq!(sees(&alice, all).await, ids(&[hers]));
        assert_eq!(sees(&bob, all).await, ids(&[his]));
        assert_eq!(sees(&carol, all).await, ids(&[hers, carols]));
        let admin = world.admin().await;
        assert_eq!(sees(&admin, all).await, ids(&[hers, his, carols]));
        assert_eq!(sees(&admin, &format!("{all}?machine_id={two}")).await, ids(&[his]));
        alice.act(hers, "/stop").await.ok();
        assert_eq!(sees(&carol, &format!("{all}?status=live")).await, ids(&[carols]));
        assert_eq!(sees(&carol, &format!("{all}?status=stopped")).await, ids(&[hers]));
        assert_eq!(
            sees(&carol, &format!("{all}?q={}", &hers.to_string()[20..])).await,
            ids(&[hers])
        );
        let on_machine = format!("/api/remote/machines/{one}/sessions");
        assert_eq!(sees(&carol, &on_machine).await, ids(&[hers, carols]));
        assert_eq!(sees(&admin, &format!("{on_machine}?status=ended")).await, ids(&[hers]));
        alice.get(&on_machine).await.refused(403, "machine_admin_only");
        alice
            .get("/api/remote/machines/x/sessions")
            .await
            .refused(400, "invalid_field");
        let nowhere = "/api/remote/machines/00000000-0000-0000-0000-000000000009/sessions";
        admin.get(nowhere).await.refused(404, "machine_not_found");
        for wrong in [
            "?status=running",
            "?archived=maybe",
            "?after=x",
            "?machine_id=x",
            "?limit=0",
            "?nonsense=1",
        ] {
            assert_eq!(alice.get(&format!("{all}{wrong}")).await.status, 400, "{wrong}");
        }
    }
}

#[tokio::test]
async fn a_search_looks_into_titles_and_paths_and_means_what_it_says() {
    for world in worlds().await {
        let machine = world.host(1).await;
        let alice = world.assigned("alice", machine, "user").await;
        for title in ["Fix LOGIN", "100% done", "Größe_x", "other"] {
            let id = alice.starts(machine).await;
            alice
                .patch(&at(id, ""), serde_json::json!({ "title": title }))
                .await
                .ok();
            alice.act(id, "/stop").await.ok();
        }
        let found = async |q: &str| titles(&alice.get(&format!("/api/remote/sessions?q={q}")).await.ok().json);
        assert_eq!(found("login").await, ["Fix LOGIN"]);
        assert_eq!(found("100%25").await, ["100% done"]);
        assert_eq!(found("0%25d").await, Vec::<String>::new());
        assert_eq!(found("e_x").await, ["Größe_x"]);
        assert_eq!(found("Gr%C3%B6%C3%9F").await, ["Größe_x"]);
        assert_eq!(found("srv/APP").await.len(), 4);
    }
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap() {
    for world in worlds().await {
        let machine = world.host(1).await;
        let carol = world.assigned("carol", machine, "admin").await;
        world.add_user("dave").await;
        many(&world, 2, machine, 100).await;
        many(&world, 3, machine, 100).await;
        let (mut seen, mut next) = (Vec::new(), String::new());
        loop {
            let page = carol
                .get(&format!("/api/remote/sessions?limit=33{next}"))
                .await
                .ok()
                .json;
            seen.extend(titles(&page));
            match page["next"].as_str() {
                Some(cursor) => next = format!("&after={cursor}"),
                None => break,
            }
        }
        let expected: Vec<String> = (0..100)
            .rev()
            .flat_map(|number| vec![format!("title {number}"); 2])
            .collect();
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn ten_thousand_sessions_are_listed_in_no_time() {
    for world in worlds().await {
        let machine = world.host(1).await;
        let carol = world.assigned("carol", machine, "admin").await;
        let alice = world.assigned("alice", machine, "user").await;
        many(&world, 2, machine, 5_000).await;
        many(&world, 3, machine, 10_000).await;
        sqlx::query("ANALYZE agent_sessions")
            .execute(&world.database.db.write)
            .await
            .unwrap();
        let admin = world.admin().await;
        for (who, client) in [("alice", &alice), ("carol", &carol), ("admin", &admin)] {
            for path in [
                "/api/remote/sessions",
                "/api/remote/sessions?after=5000000.ffffffff-ffff-ffff-ffff-ffffffffffff",
                "/api/remote/sessions?q=title%2042",
                "/api/remote/sessions?status=live",
            ] {
                client.get(path).await.ok();
                let mut times = Vec::new();
                for _ in 0..5 {
                    let begun = Instant::now();
                    client.get(path).await.ok();
                    times.push(begun.elapsed());
                }
                times.sort();
                println!("{:?} {who} {path}: {:?}", world.database.engine(), times[2]);
                // Unoptimised, and beside other tests: what is measured by hand is far below.
                assert!(times[0] < Duration::from_millis(500), "{who} {path}: {times:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_page_of_ones_own_comes_from_an_index() {
    for world in worlds().await {
        if world.database.engine() != ace_migrations::Engine::Sqlite {
            continue;
        }
        let plan = sqlx::query(
            "EXPLAIN QUERY PLAN SELECT session_id FROM agent_sessions WHERE agent_sessions.archived = 0
             AND (agent_sessions.created_at, agent_sessions.session_id) < (1, 'x') AND agent_sessions.tenant_id = 1
             AND agent_sessions.user_id = 2 ORDER BY agent_sessions.created_at DESC, agent_sessions.session_id DESC LIMIT 51",
        );
        let plan = plan.fetch_all(&world.database.db.read).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        assert!(plan.iter().all(|step| !step.contains("TEMP B-TREE")), "{plan:?}");
        assert!(
            plan[0].contains("agent_sessions_by_user (user_id=? AND (created_at,session_id)<(?,?))"),
            "{plan:?}"
        );
    }
}

#[tokio::test]
async fn a_session_shows_what_the_gateway_counted() {
    for world in worlds().await {
        let machine = world.host(1).await;
        let alice = world.assigned("alice", machine, "user").await;
        let (session, other) = (alice.starts(machine).await, alice.starts(machine).await);
        for (day, id) in [("1", session), ("2", session), ("1", other)] {
            world
                .run(
                    "INSERT INTO usage_sessions VALUES ($2, CAST($1 AS BIGINT), 1, 2, 'm', 'openai', 1, 'gpt', 1, 0, 0, 10, 20, 30, 40, 50, 0, 0, 0,
                                                     1500000, 0, 0)",
                    &[day, &id.to_string()],
                )
                .await;
        }
        let seen = alice.sees(session).await;
        let totals = [
            "total_tokens",
            "input_tokens",
            "cache_read_tokens",
            "cache_write_tokens",
            "output_tokens",
            "request_count",
        ];
        let totals = totals.map(|field| seen[field].as_i64().unwrap());
        assert_eq!(totals, [300, 20, 40, 140, 100, 2]);
        assert_eq!(seen["cost_usd"], "3.000000");
        let page = alice.get("/api/remote/sessions").await.ok().json;
        let listed: Vec<i64> = page["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["total_tokens"].as_i64().unwrap())
            .collect();
        assert_eq!(listed, [150, 300], "the newest first");
    }
}
