//! Everybody who can ask for something, and what there is to ask for. It is set anew before each call: no call changes the next.

use ace_policies::UserId;
use ace_policies::secret::{self, TokenKind};

use crate::testing::{Client, World};

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Person {
    /// Is not logged in.
    Nobody,
    /// Uses the machine.
    User,
    /// Is an admin of the machine.
    MachineAdmin,
    /// Is an admin of a machine of another tenant.
    AdminElsewhere,
    SystemAdmin,
    /// Speaks for the machine.
    Agent,
}

pub(super) const EVERYBODY: [Person; 6] = [
    Person::Nobody,
    Person::User,
    Person::MachineAdmin,
    Person::AdminElsewhere,
    Person::SystemAdmin,
    Person::Agent,
];

impl Person {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::User => "a user",
            Self::MachineAdmin => "a machine admin",
            Self::AdminElsewhere => "a machine admin of another tenant",
            Self::SystemAdmin => "a system admin",
            Self::Agent => "the machine's agent",
        }
    }
}

/// What the names in paths and bodies stand for. The ids are high, so that none is made by a call.
const NAMES: [(&str, &str); 9] = [
    ("{machine}", "00000000-0000-0000-0000-0000000000c1"),
    ("{machine_elsewhere}", "00000000-0000-0000-0000-0000000000c2"),
    // Dave's, on the machine.
    ("{session}", "00000000-0000-0000-0000-0000000000d1"),
    // Bob's, on the machine.
    ("{own_session}", "00000000-0000-0000-0000-0000000000d2"),
    ("{alice}", "901"),
    ("{bob}", "902"),
    // Assigned to the machine like bob, and nobody of those who ask.
    ("{dave}", "904"),
    ("{elsewhere}", "900"),
    ("{token}", "900"),
];

const SET: &str = "
INSERT INTO tenants (id, name, created_at) VALUES (900, 'elsewhere', 0) ON CONFLICT (id) DO NOTHING;
INSERT INTO users (id, tenant_id, username, password_hash, role, created_at, updated_at) VALUES
    (901, 1, 'alice', '', 'user', 0, 0), (902, 1, 'bob', '', 'user', 0, 0),
    (903, 900, 'carol', '', 'user', 0, 0), (904, 1, 'dave', '', 'user', 0, 0) ON CONFLICT (id) DO NOTHING;
INSERT INTO personal_tokens (id, user_id, name, token_hash, created_at) VALUES (900, 904, 'ci', 'none', 0)
    ON CONFLICT (id) DO UPDATE SET revoked_at = NULL;
INSERT INTO remote_machines (machine_id, tenant_id, machine_name, hostname, os_type, os_version, agent_version,
                             agent_token_hash, authenticated_at, created_at) VALUES
    ('{machine}', 1, 'm', 'm', 'linux', '6', '1', '{agent}', 1, 0),
    ('{machine_elsewhere}', 900, 'e', 'e', 'linux', '6', '1', 'none', 1, 0)
    ON CONFLICT (machine_id) DO UPDATE SET agent_token_hash = excluded.agent_token_hash, next_agent_token_hash = NULL,
        rotation_id = NULL;
DELETE FROM unregistered_agents;
INSERT INTO machine_assignments (machine_id, user_id, permission, granted_at) VALUES
    ('{machine}', 901, 'admin', 0), ('{machine}', 902, 'user', 0), ('{machine}', 904, 'user', 0),
    ('{machine_elsewhere}', 903, 'admin', 0)
    ON CONFLICT (machine_id, user_id) DO UPDATE SET permission = excluded.permission;
INSERT INTO agent_sessions (session_id, user_id, tenant_id, remote_machine_id, machine_name, status, project_path, cli_tool,
                            created_at, updated_at) VALUES
    ('{session}', 904, 1, '{machine}', 'm', 'active', '/p', 'claude-code', 0, 0),
    ('{own_session}', 902, 1, '{machine}', 'm', 'active', '/p', 'claude-code', 0, 0)
    ON CONFLICT (session_id) DO UPDATE SET status = 'active', archived = 0;
";

pub(super) struct Stage<'a> {
    world: &'a World,
}

impl<'a> Stage<'a> {
    pub fn new(world: &'a World) -> Self {
        Self { world }
    }

    /// What each of [`EVERYBODY`] is answered.
    pub async fn statuses(&self, method: &str, path: &str, body: &str) -> [u16; EVERYBODY.len()] {
        let mut statuses = [0; EVERYBODY.len()];
        for (status, person) in statuses.iter_mut().zip(EVERYBODY) {
            *status = self.status(person, method, path, body).await;
        }
        statuses
    }

    /// Whether the machine's agent is connected from now on; one that is does not answer.
    pub async fn agent_is_there(&self, is_there: bool) {
        self.set().await;
        let insert = r#"INSERT INTO agent_connections (machine_id, connection_id, node_id, transport, connected_at, seen_at, expires_at)
            VALUES ('{machine}', 'c', 'n', 'ws', 0, 9000000000000, 9000000000000) ON CONFLICT DO NOTHING;
            UPDATE remote_machines SET capabilities = '{"clis":[{"id":"qwen-code-cli","installed":true}]}'"#;
        let sql = if is_there {
            insert
        } else {
            "DELETE FROM agent_connections"
        };
        sqlx::raw_sql(sqlx::AssertSqlSafe(named(sql)))
            .execute(&self.world.database.db.write)
            .await
            .unwrap();
    }

    pub async fn status(&self, person: Person, method: &str, path: &str, body: &str) -> u16 {
        self.set().await;
        let body = named(body);
        let body = (!body.is_empty()).then_some(body.as_str());
        self.client(person).await.status(method, &named(path), body).await
    }

    async fn client(&self, person: Person) -> Client {
        match person {
            Person::Nobody => self.world.nobody(),
            Person::User => self.world.logged_in(UserId(902)).await,
            Person::MachineAdmin => self.world.logged_in(UserId(901)).await,
            Person::AdminElsewhere => self.world.logged_in(UserId(903)).await,
            Person::SystemAdmin => self.world.admin().await,
            Person::Agent => self.world.bearer(agent_token().expose()),
        }
    }

    async fn set(&self) {
        let hash = secret::hash(agent_token().expose());
        let sql = named(SET).replace("{agent}", &hash);
        let mut transaction = self.world.database.db.begin_write().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut *transaction)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    }
}

fn agent_token() -> ace_policies::Secret {
    secret::format(TokenKind::Agent, &[7; 32])
}

fn named(text: &str) -> String {
    NAMES
        .iter()
        .fold(text.to_owned(), |text, (name, id)| text.replace(name, id))
}
