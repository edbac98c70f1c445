//! Who may call what: every route of the router, tried by everybody. A route without a line fails the test, which says what line.

mod routes;
mod seed;
mod stage;

use std::collections::BTreeSet;

use stage::{EVERYBODY, Stage};

use crate::testing::worlds;

/// Method; path with ids, where `{machine}`, `{session}` and so on are those of the [`Stage`]; JSON body, empty for none; and the
/// status for each of [`EVERYBODY`]. Before each call the stage is set anew.
type Line = (&'static str, &'static str, &'static str, [u16; EVERYBODY.len()]);

//                                                                       nobody, user, machine admin, elsewhere, admin, agent
#[rustfmt::skip]
const MATRIX: &[Line] = &[
    ("POST", "/api/auth/login", r#"{"username":"x","password":""}"#, [400, 400, 400, 400, 400, 400]),
    ("GET", "/api/auth/check", "", [200, 200, 200, 200, 200, 200]),
    ("GET", "/api/auth/me", "", [401, 200, 200, 200, 200, 401]),
    ("POST", "/api/auth/change-password", r#"{"current_password":"wrong","new_password":"a new password"}"#, [401, 401, 401, 401, 401, 401]),
    ("POST", "/api/auth/logout", "", [200, 200, 200, 200, 200, 200]),

    ("GET", "/api/users", "", [401, 403, 403, 403, 200, 401]),
    ("POST", "/api/users", r#"{"username":"made"}"#, [401, 403, 403, 403, 200, 401]),
    ("GET", "/api/users/1", "", [401, 403, 403, 403, 200, 401]),
    ("PATCH", "/api/users/1", r#"{"email":null}"#, [401, 403, 403, 403, 200, 401]),
    ("GET", "/api/tokens", "", [401, 200, 200, 200, 200, 401]),
    ("POST", "/api/tokens", r#"{"name":"x"}"#, [401, 200, 200, 200, 200, 401]),
    ("DELETE", "/api/tokens/{token}", "", [401, 404, 404, 404, 200, 401]),
    ("GET", "/api/tenants", "", [401, 403, 403, 403, 200, 401]),
    ("POST", "/api/tenants", r#"{"name":"made"}"#, [401, 403, 403, 403, 200, 401]),
    ("PATCH", "/api/tenants/{elsewhere}", r#"{"name":"renamed"}"#, [401, 403, 403, 403, 200, 401]),

    ("GET", "/api/remote/api-keys", "", [401, 403, 403, 403, 200, 401]),
    ("POST", "/api/remote/api-keys", r#"{"provider":"openai","key_name":"k","api_key":"sk-xxx...","base_url":"https://ace-test.invalid/v1"}"#, [401, 403, 403, 403, 200, 401]),
    ("PATCH", "/api/remote/api-keys/1", r#"{"weight":1}"#, [401, 403, 403, 403, 200, 401]),
    ("POST", "/api/remote/api-keys/1/test", "{}", [401, 403, 403, 403, 200, 401]),
    ("DELETE", "/api/remote/api-keys/1", "", [401, 403, 403, 403, 200, 401]),
    ("POST", "/api/proxy-tokens", "{}", [401, 200, 200, 200, 200, 401]),

    ("POST", "/api/remote/machines/register", "{}", [401, 403, 403, 403, 200, 401]),
    ("GET", "/api/remote/machines", "", [401, 200, 200, 200, 200, 401]),
    ("GET", "/api/remote/machines/available", "", [401, 200, 200, 200, 200, 401]),
    ("GET", "/api/remote/machines/{machine}", "", [401, 200, 200, 404, 200, 401]),
    ("PATCH", "/api/remote/machines/{machine}", r#"{"max_sessions":5}"#, [401, 403, 403, 403, 200, 401]),
    ("DELETE", "/api/remote/machines/{machine}", "", [401, 403, 403, 403, 200, 401]),
    ("GET", "/api/remote/machines/{machine}/users", "", [401, 403, 200, 404, 200, 401]),
    ("POST", "/api/remote/machines/{machine}/assign", r#"{"user_id":{dave}}"#, [401, 403, 200, 404, 200, 401]),
    ("DELETE", "/api/remote/machines/{machine}/assign/{dave}", "", [401, 403, 200, 404, 200, 401]),
    ("POST", "/api/remote/machines/{machine}/token/rotate", "", [401, 403, 403, 403, 200, 401]),
    ("POST", "/api/remote/machines/{machine}/token/revoke", "", [401, 403, 403, 403, 200, 401]),
    ("GET", "/api/remote/machines/{machine}/browse?path=/", "", [401, 409, 409, 404, 409, 401]),
    ("GET", "/api/remote/machines/{machine}/file?path=/a", "", [401, 409, 409, 404, 409, 401]),
    ("GET", "/api/remote/machines/{machine}/git/status?path=/", "", [401, 409, 409, 404, 409, 401]),
    ("GET", "/api/remote/machines/{machine}/git/diff?path=/", "", [401, 409, 409, 404, 409, 401]),
    ("POST", "/api/remote/agent/register", "{}", [400, 400, 400, 400, 400, 400]),
    ("GET", "/api/remote/agent/ws", "", [401, 401, 401, 401, 401, 426]),
    ("POST", "/api/remote/agent/message", r#"{"type":"poll","machine_id":"{machine}"}"#, [401, 401, 401, 401, 401, 200]),
    ("POST", "/api/remote/usage-report", r#"{"machine_id":"{machine}"}"#, [401, 401, 401, 401, 401, 200]),
    ("POST", "/api/remote/heartbeat", r#"{"machine_id":"{machine}"}"#, [401, 401, 401, 401, 401, 200]),
    ("POST", "/api/remote/token_info", r#"{"machine_id":"{machine}"}"#, [401, 401, 401, 401, 401, 200]),
    ("POST", "/api/remote/command_response", r#"{"machine_id":"{machine}","request_id":"{machine}"}"#, [401, 401, 401, 401, 401, 200]),

    ("GET", "/api/remote/sessions", "", [401, 200, 200, 200, 200, 401]),
    ("POST", "/api/remote/sessions", r#"{"machine_id":"{machine}","project_path":"/p"}"#, [401, 200, 200, 400, 200, 401]),
    ("POST", "/api/remote/sessions/bulk", r#"{"action":"archive","session_ids":[]}"#, [401, 200, 200, 200, 200, 401]),
    ("GET", "/api/remote/sessions/{session}", "", [401, 404, 200, 404, 200, 401]),
    ("GET", "/api/remote/sessions/{own_session}", "", [401, 200, 200, 404, 200, 401]),
    ("PATCH", "/api/remote/sessions/{session}", r#"{"title":"t"}"#, [401, 404, 200, 404, 200, 401]),
    ("DELETE", "/api/remote/sessions/{session}", "", [401, 404, 409, 404, 409, 401]),
    ("POST", "/api/remote/sessions/{session}/chat", r#"{"content":"hi"}"#, [401, 404, 200, 404, 200, 401]),
    ("POST", "/api/remote/sessions/{session}/stop", "", [401, 404, 200, 404, 200, 401]),
    ("POST", "/api/remote/sessions/{session}/pause", "", [401, 404, 200, 404, 200, 401]),
    ("POST", "/api/remote/sessions/{session}/resume", "", [401, 404, 200, 404, 200, 401]),
    ("POST", "/api/remote/sessions/{session}/abort", "", [401, 404, 200, 404, 200, 401]),
    ("PUT", "/api/remote/sessions/{session}/model", r#"{"model":"m"}"#, [401, 404, 200, 404, 200, 401]),
    ("PUT", "/api/remote/sessions/{session}/permission-mode", r#"{"permission_mode":"plan"}"#, [401, 404, 200, 404, 200, 401]),
    ("GET", "/api/remote/sessions/{session}/stream", "", [401, 404, 200, 404, 200, 401]),
    ("GET", "/api/remote/sessions/{session}/transcript", "", [401, 404, 200, 404, 200, 401]),
    ("GET", "/api/remote/sessions/{session}/messages", "", [401, 404, 200, 404, 200, 401]),
    ("GET", "/api/remote/sessions/{session}/approvals", "", [401, 404, 200, 404, 200, 401]),
    ("GET", "/api/remote/sessions/{session}/approval-rules", "", [401, 404, 200, 404, 200, 401]),
    ("POST", "/api/remote/sessions/{session}/permission", r#"{"request_id":"q","behavior":"allow"}"#, [401, 404, 404, 404, 404, 401]),
    ("DELETE", "/api/remote/sessions/{session}/approval-rules/1", "", [401, 404, 404, 404, 404, 401]),
    ("GET", "/api/remote/machines/{machine}/sessions", "", [401, 403, 200, 404, 200, 401]),

    ("GET", "/api/quota/me", "", [401, 200, 200, 200, 200, 401]),
    ("GET", "/api/quota/tenants/1", "", [401, 404, 404, 404, 200, 401]),
    ("PUT", "/api/quota/tenants/1", r#"{"limits":{"tokens_per_day":null}}"#, [401, 403, 403, 403, 200, 401]),
    ("GET", "/api/quota/events", "", [401, 200, 200, 200, 200, 401]),
    ("GET", "/api/usage", "", [401, 200, 200, 200, 200, 401]),
    ("GET", "/api/usage/requests", "", [401, 200, 200, 200, 200, 401]),
    ("GET", "/api/prices", "", [401, 403, 403, 403, 200, 401]),
    ("GET", "/api/audit", "", [401, 403, 403, 403, 200, 401]),
    ("GET", "/api/meta", "", [200, 200, 200, 200, 200, 200]),
    ("GET", "/api/status", "", [401, 403, 403, 403, 200, 401]),
    ("GET", "/api/setup", "", [401, 403, 403, 403, 200, 401]),
    ("POST", "/api/explain", r#"{"user_id":1}"#, [401, 403, 403, 403, 200, 401]),

    ("GET", "/api/live", "", [401, 200, 200, 200, 200, 401]),
    ("GET", "/api/notifications", "", [401, 200, 200, 200, 200, 401]),
    ("PATCH", "/api/notifications", r#"{"all":true}"#, [401, 200, 200, 200, 200, 401]),
    ("GET", "/api/push-subscriptions", "", [401, 200, 200, 200, 200, 401]),
    ("GET", "/api/push-subscriptions/key", "", [401, 200, 200, 200, 200, 401]),
    // The last one has it.
    ("POST", "/api/push-subscriptions", r#"{"endpoint":"https://ace-test.invalid/push","keys":{"p256dh":"BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4","auth":"BTBZMqHH6r4Tts7J_aSIgg"}}"#, [401, 200, 200, 200, 200, 401]),
    ("DELETE", "/api/push-subscriptions/1", "", [401, 404, 404, 404, 200, 401]),
    ("GET", "/api/webhooks", "", [401, 403, 403, 403, 200, 401]),
    ("POST", "/api/webhooks", r#"{"url":"https://ace-test.invalid/hook"}"#, [401, 403, 403, 403, 200, 401]),
    ("PATCH", "/api/webhooks/1", r#"{"description":"x"}"#, [401, 403, 403, 403, 200, 401]),
    ("POST", "/api/webhooks/1/test", "{}", [401, 403, 403, 403, 200, 401]),
    ("GET", "/api/webhooks/1/deliveries", "", [401, 403, 403, 403, 200, 401]),
    ("DELETE", "/api/webhooks/1", "", [401, 403, 403, 403, 200, 401]),

    ("GET", "/api/remote/agent/install.sh", "", [200, 200, 200, 200, 200, 200]),
    ("GET", "/api/remote/agent/install.ps1", "", [200, 200, 200, 200, 200, 200]),
    ("GET", "/api/remote/agent/uninstall.sh", "", [200, 200, 200, 200, 200, 200]),
    ("GET", "/api/remote/agent/files/SHA256SUMS", "", [200, 200, 200, 200, 200, 200]),
];

#[tokio::test]
async fn everybody_gets_what_the_matrix_says() {
    for world in worlds().await {
        let stage = Stage::new(&world);
        let mut wrong = Vec::new();
        for (method, path, body, expected) in MATRIX {
            let found = stage.statuses(method, path, body).await;
            if found != *expected {
                wrong.push(format!("{method} {path}: {expected:?} in the matrix, but {found:?}"));
            }
        }
        let engine = world.database.engine().as_str();
        assert!(wrong.is_empty(), "{engine}:\n{}", wrong.join("\n"));
    }
}

#[tokio::test]
async fn every_route_has_a_line_in_the_matrix() {
    let served = routes::served();
    let lines = MATRIX.iter().map(|(method, path, ..)| {
        routes::of(&served, method, path).unwrap_or_else(|| panic!("no route serves {method} {path}"))
    });
    let lines: BTreeSet<_> = lines.collect();
    let [world, ..] = &worlds().await[..] else {
        unreachable!()
    };
    let mut missing = Vec::new();
    for (method, template) in served.difference(&lines) {
        let (path, body) = routes::draft(method, template);
        let found = Stage::new(world).statuses(method, &path, body).await;
        missing.push(format!("    ({method:?}, {path:?}, {body:?}, {found:?}),"));
    }
    assert!(
        missing.is_empty(),
        "add these lines to MATRIX in matrix_tests.rs, with a body that works and the statuses that are right; \
         the numbers are what is answered now to {}:\n{}",
        EVERYBODY.map(|person| person.name()).join(", "),
        missing.join("\n")
    );
}
