//! The permission model as it is promised to users, cell by cell, asked of the API.

use super::stage::{Person, Stage};
use crate::testing::worlds;

/// System admin, machine admin, regular user.
type Row = (&'static str, &'static [Call], [Cell; 3]);

/// Method, path, body.
type Call = (&'static str, &'static str, &'static str);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    Yes,
    No,
}
use Cell::{No, Yes};

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("Create session", &[
        ("POST", "/api/remote/sessions", r#"{"machine_id":"{machine}","project_path":"/p"}"#),
    ], [Yes, Yes, Yes]),
    ("Browse machine files", &[
        ("GET", "/api/remote/machines/{machine}/browse?path=/", ""),
    ], [Yes, Yes, Yes]),
    ("Manage own sessions", &[
        ("GET", "/api/remote/sessions/{own_session}", ""),
    ], [Yes, Yes, Yes]),
    ("View/stop others' sessions (on this machine)", &[
        ("GET", "/api/remote/sessions/{session}", ""),
        ("POST", "/api/remote/sessions/{session}/stop", ""),
        ("GET", "/api/remote/machines/{machine}/sessions", ""),
    ], [Yes, Yes, No]),
    ("Assign/revoke users (on this machine)", &[
        ("POST", "/api/remote/machines/{machine}/assign", r#"{"user_id":{dave},"permission":"user"}"#),
        ("DELETE", "/api/remote/machines/{machine}/assign/{dave}", ""),
        ("GET", "/api/remote/machines/{machine}/users", ""),
    ], [Yes, Yes, No]),
    ("Unregister machine", &[
        ("DELETE", "/api/remote/machines/{machine}", ""),
    ], [Yes, No, No]),
    ("Generate registration token", &[
        ("POST", "/api/remote/machines/register", r#"{"tenant_id":1}"#),
    ], [Yes, No, No]),
    ("Manage API keys", &[
        ("GET", "/api/remote/api-keys", ""),
        ("POST", "/api/remote/api-keys", r#"{"provider":"openai","key_name":"production","api_key":"sk-xxx...","base_url":"https://ace-test.invalid/v1"}"#),
        ("DELETE", "/api/remote/api-keys/1", ""),
    ], [Yes, No, No]),
    ("Promote another user to admin", &[
        ("POST", "/api/remote/machines/{machine}/assign", r#"{"user_id":{alice},"permission":"admin"}"#),
    ], [Yes, No, No]),
    ("Revoke an admin", &[
        ("DELETE", "/api/remote/machines/{machine}/assign/{alice}", ""),
    ], [Yes, No, No]),
];

const ASKED: [Person; 3] = [Person::SystemAdmin, Person::MachineAdmin, Person::User];

#[tokio::test]
async fn the_seeds_permission_table_by_api() {
    for world in worlds().await {
        let stage = Stage::new(&world);
        for (act, calls, cells) in TABLE {
            stage.agent_is_there(*act == "Create session").await;
            for (method, path, body) in *calls {
                for (person, cell) in ASKED.into_iter().zip(*cells) {
                    let status = stage.status(person, method, path, body).await;
                    let expected = match cell {
                        // 409: allowed, but the machine's agent is not there to be asked.
                        Yes => [200, 409],
                        No => [403, 404],
                    };
                    let name = person.name();
                    assert!(
                        expected.contains(&status),
                        "{act}: {name} {cell:?}, but {method} {path} is {status}"
                    );
                }
            }
        }
    }
}
