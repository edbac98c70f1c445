-- One-time tokens that register machines. Consumed in the transaction that stores the machine.
CREATE TABLE registration_tokens (
    token_hash  TEXT PRIMARY KEY,
    tenant_id   INTEGER NOT NULL REFERENCES tenants (id),
    created_by  INTEGER NOT NULL REFERENCES users (id),
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    consumed_at INTEGER,
    -- The machine that it registered. No reference: the machine may go again.
    machine_id  TEXT
) STRICT;

CREATE INDEX registration_tokens_by_expiry ON registration_tokens (expires_at);

-- A rotation's new token works beside the old one until it is used; then it takes its place.
ALTER TABLE remote_machines ADD COLUMN next_agent_token_hash TEXT;
ALTER TABLE remote_machines ADD COLUMN rotation_id TEXT;
ALTER TABLE remote_machines ADD COLUMN token_version INTEGER NOT NULL DEFAULT 1;
-- When the current agent token was first used: until then the registration may be repeated.
ALTER TABLE remote_machines ADD COLUMN authenticated_at INTEGER;
-- How its agent speaks: `own` is `policies::wire`, `python` the older agent's messages.
ALTER TABLE remote_machines ADD COLUMN dialect TEXT NOT NULL DEFAULT 'own' CHECK (dialect IN ('own', 'python'));
-- Whether proxy tokens may live as long as their session where the agent cannot renew them.
ALTER TABLE remote_machines ADD COLUMN allow_long_tokens INTEGER NOT NULL DEFAULT 1 CHECK (allow_long_tokens IN (0, 1));

CREATE UNIQUE INDEX remote_machines_by_next_token ON remote_machines (next_agent_token_hash);

CREATE INDEX remote_machines_by_name ON remote_machines (machine_name, machine_id);

-- Agents' tokens of machines that were unregistered: they open nothing, but their agents are told why.
CREATE TABLE unregistered_agents (
    token_hash      TEXT PRIMARY KEY,
    machine_id      TEXT NOT NULL,
    unregistered_at INTEGER NOT NULL
) STRICT;

CREATE INDEX unregistered_agents_by_time ON unregistered_agents (unregistered_at);
CREATE INDEX registration_tokens_by_machine ON registration_tokens (machine_id);

-- Who holds the connection to a machine's agent. `connected` while `expires_at` lies ahead (a node renews all of its own every few
-- seconds, so those of a dead node lapse); `online` until 180 s after `seen_at`; the row goes when the connection is closed cleanly.
CREATE TABLE agent_connections (
    machine_id    TEXT PRIMARY KEY REFERENCES remote_machines (machine_id) ON DELETE CASCADE,
    connection_id TEXT NOT NULL,
    node_id       TEXT NOT NULL,
    transport     TEXT NOT NULL CHECK (transport IN ('ws', 'poll')),
    connected_at  INTEGER NOT NULL,
    seen_at       INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL,
    -- How often one agent has put another out since `takeovers_since`: two that share one identity do nothing else.
    takeovers       INTEGER NOT NULL DEFAULT 0,
    takeovers_since INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX agent_connections_by_node ON agent_connections (node_id);
CREATE INDEX agent_connections_by_sign ON agent_connections (seen_at);

-- Kept for when the machine is gone.
ALTER TABLE agent_sessions ADD COLUMN machine_name TEXT NOT NULL DEFAULT '';
ALTER TABLE agent_sessions ADD COLUMN archived INTEGER NOT NULL DEFAULT 0 CHECK (archived IN (0, 1));
-- What the client called its wish to start it, so that a second click finds the first one's session.
ALTER TABLE agent_sessions ADD COLUMN idempotency_key TEXT;
-- Counted up with each start and resume: what an agent says of an earlier run changes nothing.
ALTER TABLE agent_sessions ADD COLUMN run INTEGER NOT NULL DEFAULT 1;
-- Whether the CLI works on something now.
ALTER TABLE agent_sessions ADD COLUMN busy INTEGER NOT NULL DEFAULT 0 CHECK (busy IN (0, 1));
-- Why it is in `error`, for people.
ALTER TABLE agent_sessions ADD COLUMN error TEXT;
-- Output that is stored: sequence numbers from `first_seq` to `last_seq`, without a gap. A `first_seq` of 0 is none.
ALTER TABLE agent_sessions ADD COLUMN first_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agent_sessions ADD COLUMN last_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agent_sessions ADD COLUMN output_bytes INTEGER NOT NULL DEFAULT 0;

-- The last command that could not be applied, as JSON, until the next message.
ALTER TABLE agent_sessions ADD COLUMN problem TEXT;
-- Counted up whenever one of its approvals changes.
ALTER TABLE agent_sessions ADD COLUMN approvals_version INTEGER NOT NULL DEFAULT 0;
-- When its output and messages were forgotten, long after its end.
ALTER TABLE agent_sessions ADD COLUMN forgotten_at INTEGER;
-- Since when its agent is connected and has not said that it has it; NULL while there is nothing to wonder about.
ALTER TABLE agent_sessions ADD COLUMN unsure_since INTEGER;

CREATE UNIQUE INDEX agent_sessions_by_idempotency ON agent_sessions (user_id, idempotency_key);
CREATE INDEX agent_sessions_by_time ON agent_sessions (created_at, session_id);
-- Lists are paged by these keys: without the id in the index each page would sort a moment's sessions anew.
DROP INDEX agent_sessions_by_user;
DROP INDEX agent_sessions_by_machine;
CREATE INDEX agent_sessions_by_user ON agent_sessions (user_id, created_at, session_id);
CREATE INDEX agent_sessions_by_machine ON agent_sessions (remote_machine_id, created_at, session_id);
CREATE INDEX agent_sessions_live ON agent_sessions (remote_machine_id) WHERE status IN ('starting', 'active', 'paused');
CREATE INDEX agent_sessions_by_end ON agent_sessions (ended_at) WHERE forgotten_at IS NULL;
CREATE INDEX agent_sessions_unsure ON agent_sessions (unsure_since) WHERE unsure_since IS NOT NULL;

-- What a CLI printed. `seq` comes from the agent's spool and begins with 1. Bytes: a CLI may print what is no text.
CREATE TABLE session_output (
    session_id TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    stream     TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr', 'system')),
    data       BLOB NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (session_id, seq)
) STRICT, WITHOUT ROWID;

-- What is to go of the output and messages of sessions that were forgotten or deleted: all up to these. It may be too much for one
-- transaction; until it is gone nobody is shown it.
CREATE TABLE session_leftovers (
    session_id    TEXT PRIMARY KEY,
    up_to_seq     INTEGER NOT NULL,
    up_to_message INTEGER NOT NULL
) STRICT;

-- What people and CLIs said to each other, as messages.
CREATE TABLE session_messages (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    content    TEXT NOT NULL,
    -- Who wrote it, for `user`.
    user_id    INTEGER,
    -- The command that carries it to the agent, for `user`.
    command_id TEXT,
    -- The line of output that it comes from, for `assistant`.
    seq        INTEGER,
    -- The last line that was stored when it was said, for `user`: clocks of machines tell nothing of that.
    after_seq  INTEGER NOT NULL DEFAULT 0,
    at         INTEGER NOT NULL,
    UNIQUE (session_id, seq)
) STRICT;

CREATE INDEX session_messages_by_session ON session_messages (session_id, id);

-- What an agent is to do, in the order of `id`. Payloads hold no secrets: tokens are made when a command is handed over. They are emptied as soon
-- as a command is not handed over any more.
CREATE TABLE agent_commands (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    command_id      TEXT NOT NULL UNIQUE,
    machine_id      TEXT NOT NULL,
    session_id      TEXT,
    -- The session's run it is meant for.
    run             INTEGER,
    type            TEXT NOT NULL,
    payload         TEXT NOT NULL,
    state           TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'delivered', 'acked', 'done', 'failed', 'expired')),
    attempts        INTEGER NOT NULL DEFAULT 0,
    -- Delivered, but handed over again after this if it is not acknowledged until then.
    leased_until    INTEGER,
    expires_at      INTEGER NOT NULL,
    idempotency_key TEXT,
    created_by      INTEGER,
    created_at      INTEGER NOT NULL,
    finished_at     INTEGER,
    result          TEXT,
    error           TEXT,
    UNIQUE (session_id, idempotency_key)
) STRICT;

CREATE INDEX agent_commands_waiting ON agent_commands (machine_id, id) WHERE state IN ('queued', 'delivered');
CREATE INDEX agent_commands_by_session ON agent_commands (session_id, id);
CREATE INDEX agent_commands_with_result ON agent_commands (finished_at) WHERE result IS NOT NULL;
CREATE INDEX agent_commands_finished ON agent_commands (finished_at) WHERE session_id IS NULL;
CREATE INDEX agent_commands_by_expiry ON agent_commands (expires_at) WHERE state IN ('queued', 'delivered', 'acked');

-- Tools that a CLI asks to be allowed to use. They wait as long as people need.
CREATE TABLE session_approvals (
    session_id  TEXT NOT NULL,
    request_id  TEXT NOT NULL,
    run         INTEGER NOT NULL,
    tool_name   TEXT NOT NULL,
    input       TEXT NOT NULL,
    -- 1 where `input` was too long and is cut.
    input_truncated INTEGER NOT NULL DEFAULT 0,
    state       TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'answered', 'cancelled')),
    behavior    TEXT CHECK (behavior IN ('allow', 'deny')),
    scope       TEXT CHECK (scope IN ('once', 'session', 'rule')),
    message     TEXT,
    answered_by INTEGER,
    -- The rule that answered it; then nobody did.
    rule_id     INTEGER,
    created_at  INTEGER NOT NULL,
    answered_at INTEGER,
    -- The session's `approvals_version` when this last changed.
    version     INTEGER NOT NULL,
    PRIMARY KEY (session_id, request_id)
) STRICT;

CREATE INDEX session_approvals_by_version ON session_approvals (session_id, version);
CREATE INDEX session_approvals_pending ON session_approvals (session_id, created_at) WHERE state = 'pending';

-- Answers that hold for more than once: `session_id` for the rest of a session, '' for the user's sessions in a project on a machine.
CREATE TABLE approval_rules (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id      INTEGER NOT NULL REFERENCES users (id),
    machine_id   TEXT NOT NULL,
    project_path TEXT NOT NULL,
    session_id   TEXT NOT NULL DEFAULT '',
    tool_name    TEXT NOT NULL,
    behavior     TEXT NOT NULL CHECK (behavior IN ('allow', 'deny')),
    created_at   INTEGER NOT NULL,
    UNIQUE (user_id, machine_id, project_path, session_id, tool_name)
) STRICT;

-- Reports of the older agent, so that one that comes twice is known. Never metered.
CREATE TABLE usage_reports (
    machine_id TEXT NOT NULL,
    report_id  TEXT NOT NULL,
    session_id TEXT,
    report     TEXT NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (machine_id, report_id)
) STRICT;

CREATE INDEX usage_reports_by_time ON usage_reports (at);

CREATE TABLE notifications (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id    INTEGER NOT NULL REFERENCES users (id),
    kind       TEXT NOT NULL,
    title      TEXT NOT NULL,
    body       TEXT NOT NULL,
    -- Where it leads: `session:<id>`, `machine:<id>`.
    target     TEXT NOT NULL,
    -- What title and body are made of, for those who say it in another language.
    data       TEXT NOT NULL DEFAULT '{}',
    -- One cause makes one notification, whoever notices it.
    cause      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    read_at    INTEGER,
    UNIQUE (user_id, cause)
) STRICT;

CREATE INDEX notifications_by_user ON notifications (user_id, created_at, id);
-- What was answered is read, whoever was told of it.
CREATE INDEX notifications_unread_by_cause ON notifications (cause) WHERE read_at IS NULL;
CREATE INDEX notifications_by_age ON notifications (created_at);

CREATE TABLE push_subscriptions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id    INTEGER NOT NULL REFERENCES users (id),
    endpoint   TEXT NOT NULL UNIQUE,
    p256dh     TEXT NOT NULL,
    auth       TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    -- The kinds of notifications that this browser wants, JSON; NULL is all.
    kinds      TEXT,
    -- Whether it is told only that there is something.
    is_private INTEGER NOT NULL DEFAULT 0 CHECK (is_private IN (0, 1)),
    created_at INTEGER NOT NULL,
    failed_at  INTEGER
) STRICT;

CREATE INDEX push_subscriptions_by_user ON push_subscriptions (user_id);

CREATE TABLE webhooks (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id   INTEGER NOT NULL REFERENCES tenants (id),
    url         TEXT NOT NULL,
    events      TEXT NOT NULL,
    -- The secret that signs what is sent, sealed.
    key_id      TEXT NOT NULL,
    sealed      BLOB NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    is_active   INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    -- Since when nothing has got through; NULL while it works.
    failing_since INTEGER,
    -- When it was switched off because nothing got through for too long.
    disabled_at INTEGER,
    created_by  INTEGER,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;

-- The key by which push services know this installation (RFC 8292), sealed. There is one.
CREATE TABLE vapid_keys (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    public_key TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Deliveries that are due: at least once, first tried in the order of their events, with growing pauses after failures. One that a node
-- has in hand is due again a minute later, should the node die.
CREATE TABLE webhook_deliveries (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook_id   INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id     TEXT NOT NULL,
    event        TEXT NOT NULL,
    body         TEXT NOT NULL,
    state        TEXT NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'sent', 'failed')),
    attempts     INTEGER NOT NULL DEFAULT 0,
    due_at       INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    sent_at      INTEGER,
    last_status  INTEGER,
    last_error   TEXT,
    UNIQUE (webhook_id, event_id)
) STRICT;

CREATE INDEX webhook_deliveries_due ON webhook_deliveries (due_at) WHERE state = 'due';
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (created_at);

-- What happened, for those who follow live and for what is told on: notifications, webhooks. Kept for a while.
CREATE TABLE events (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    tenant_id  INTEGER NOT NULL,
    -- Whose it is; NULL where it is nobody's in particular.
    user_id    INTEGER,
    machine_id TEXT,
    session_id TEXT,
    data       TEXT NOT NULL,
    -- Of two events with one cause the second never is; NULL is a cause of its own.
    cause      TEXT UNIQUE,
    -- Taken up by whoever tells it on.
    told_at    INTEGER
) STRICT;

CREATE INDEX events_by_time ON events (at, id);
CREATE INDEX events_untold ON events (id) WHERE told_at IS NULL;

-- Locked before events are written and until they are saved: their ids are in the order in which they can be seen, so that whoever has
-- read up to one has missed nothing.
CREATE TABLE event_order (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL
) STRICT;

INSERT INTO event_order (id, version) VALUES (1, 0);

-- Work that one control node does for all; another takes over when `expires_at` is past.
CREATE TABLE task_leases (
    name       TEXT PRIMARY KEY,
    node_id    TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

-- The running control nodes; a row whose `seen_at` is old is of a dead one.
CREATE TABLE control_nodes (
    node_id    TEXT PRIMARY KEY,
    version    TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    seen_at    INTEGER NOT NULL
) STRICT;
