-- Times are UTC milliseconds, booleans 0 or 1, JSON is text: the same on both engines, so that each query is written once.
-- STRICT: SQLite checks the types as PostgreSQL does.

CREATE TABLE tenants (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

INSERT INTO tenants (name, created_at) VALUES ('default', unixepoch() * 1000);

CREATE TABLE users (
    id                   INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id            INTEGER NOT NULL REFERENCES tenants (id),
    username             TEXT NOT NULL UNIQUE,
    email                TEXT,
    password_hash        TEXT NOT NULL,
    role                 TEXT NOT NULL CHECK (role IN ('admin', 'user')),
    is_active            INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    must_change_password INTEGER NOT NULL DEFAULT 0 CHECK (must_change_password IN (0, 1)),
    -- Counted up to revoke every proxy token of the user at once.
    token_generation     INTEGER NOT NULL DEFAULT 0,
    created_at           INTEGER NOT NULL,
    updated_at           INTEGER NOT NULL,
    last_login_at        INTEGER
) STRICT;

CREATE INDEX users_by_tenant ON users (tenant_id, id);

CREATE TABLE logins (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    token_hash TEXT NOT NULL UNIQUE,
    user_id    INTEGER NOT NULL REFERENCES users (id),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER,
    ip         TEXT NOT NULL,
    user_agent TEXT NOT NULL
) STRICT;

CREATE INDEX logins_by_user ON logins (user_id);
CREATE INDEX logins_by_expiry ON logins (expires_at);

-- Shared by all control nodes, so that guesses cannot be spread over them.
CREATE TABLE login_failures (
    subject      TEXT PRIMARY KEY,
    failures     INTEGER NOT NULL,
    window_start INTEGER NOT NULL,
    locked_until INTEGER NOT NULL
) STRICT;

CREATE TABLE personal_tokens (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id      INTEGER NOT NULL REFERENCES users (id),
    name         TEXT NOT NULL,
    token_hash   TEXT NOT NULL UNIQUE,
    scopes       TEXT,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    revoked_at   INTEGER
) STRICT;

CREATE INDEX personal_tokens_by_user ON personal_tokens (user_id);

CREATE TABLE api_key_store (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id    INTEGER NOT NULL REFERENCES tenants (id),
    provider     TEXT NOT NULL CHECK (provider IN ('openai', 'anthropic', 'google')),
    key_name     TEXT NOT NULL,
    key_hint     TEXT NOT NULL,
    -- Which master key sealed the value.
    key_id       TEXT NOT NULL,
    sealed       BLOB NOT NULL,
    base_url     TEXT NOT NULL,
    models       TEXT,
    priority     INTEGER NOT NULL DEFAULT 0,
    weight       INTEGER NOT NULL DEFAULT 100,
    max_parallel INTEGER,
    is_active    INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    status       TEXT NOT NULL DEFAULT 'ok',
    created_by   INTEGER,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    last_used_at INTEGER,
    UNIQUE (tenant_id, provider, key_name)
) STRICT;

CREATE TABLE signing_keys (
    kid        TEXT PRIMARY KEY,
    key_id     TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    -- From then on tokens are signed with it; every gateway has it by then.
    active_at  INTEGER NOT NULL,
    -- From then on it verifies nothing.
    retired_at INTEGER
) STRICT;

CREATE TABLE remote_machines (
    machine_id       TEXT PRIMARY KEY,
    tenant_id        INTEGER NOT NULL REFERENCES tenants (id),
    machine_name     TEXT NOT NULL,
    hostname         TEXT NOT NULL,
    os_type          TEXT NOT NULL,
    os_version       TEXT NOT NULL,
    ip_address       TEXT,
    status           TEXT NOT NULL DEFAULT 'offline' CHECK (status IN ('online', 'offline')),
    agent_version    TEXT NOT NULL,
    capabilities     TEXT NOT NULL DEFAULT '{}',
    work_dir         TEXT,
    max_sessions     INTEGER NOT NULL DEFAULT 5,
    workspace_type   TEXT NOT NULL DEFAULT 'remote' CHECK (workspace_type IN ('local', 'remote')),
    agent_token_hash TEXT UNIQUE,
    created_by       INTEGER REFERENCES users (id),
    created_at       INTEGER NOT NULL,
    last_heartbeat   INTEGER
) STRICT;

CREATE INDEX remote_machines_by_tenant ON remote_machines (tenant_id);

CREATE TABLE machine_assignments (
    machine_id TEXT NOT NULL REFERENCES remote_machines (machine_id) ON DELETE CASCADE,
    user_id    INTEGER NOT NULL REFERENCES users (id),
    permission TEXT NOT NULL CHECK (permission IN ('admin', 'user')),
    granted_by INTEGER REFERENCES users (id),
    granted_at INTEGER NOT NULL,
    PRIMARY KEY (machine_id, user_id)
) STRICT;

CREATE INDEX machine_assignments_by_user ON machine_assignments (user_id);

CREATE TABLE agent_sessions (
    session_id        TEXT PRIMARY KEY,
    user_id           INTEGER NOT NULL REFERENCES users (id),
    tenant_id         INTEGER NOT NULL REFERENCES tenants (id),
    workspace_type    TEXT NOT NULL DEFAULT 'remote' CHECK (workspace_type IN ('local', 'remote')),
    -- No reference: a session outlives its machine, so that its record stays readable.
    remote_machine_id TEXT,
    status            TEXT NOT NULL CHECK (status IN ('starting', 'active', 'paused', 'stopped', 'completed', 'error')),
    project_path      TEXT NOT NULL,
    cli_tool          TEXT NOT NULL,
    model             TEXT,
    title             TEXT,
    permission_mode   TEXT,
    resume_id         TEXT,
    -- Counted up to revoke the proxy tokens of this session alone.
    token_generation  INTEGER NOT NULL DEFAULT 0,
    message_count     INTEGER NOT NULL DEFAULT 0,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    paused_at         INTEGER,
    ended_at          INTEGER
) STRICT;

CREATE INDEX agent_sessions_by_user ON agent_sessions (user_id, created_at);
CREATE INDEX agent_sessions_by_machine ON agent_sessions (remote_machine_id, created_at);

-- Written only by the gateway. One row per user and period; `period_start` is the UTC start of the day or month.
CREATE TABLE quota_usage (
    tenant_id      INTEGER NOT NULL,
    user_id        INTEGER NOT NULL,
    period         TEXT NOT NULL CHECK (period IN ('day', 'month')),
    period_start   INTEGER NOT NULL,
    tokens         INTEGER NOT NULL DEFAULT 0,
    requests       INTEGER NOT NULL DEFAULT 0,
    cost_micro_usd INTEGER NOT NULL DEFAULT 0,
    updated_at     INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, user_id, period, period_start)
) STRICT;

-- Written only by the gateway. No references: the record of what happened is never refused.
CREATE TABLE request_ledger (
    id                    INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id            TEXT NOT NULL UNIQUE,
    tenant_id             INTEGER NOT NULL,
    user_id               INTEGER NOT NULL,
    session_id            TEXT,
    machine_id            TEXT,
    tool                  TEXT NOT NULL,
    provider              TEXT NOT NULL,
    api_key_id            INTEGER,
    method                TEXT NOT NULL,
    path                  TEXT NOT NULL,
    model_asked           TEXT,
    model_served          TEXT,
    status                INTEGER NOT NULL,
    error_kind            TEXT,
    input_tokens          INTEGER NOT NULL DEFAULT 0,
    cache_read_tokens     INTEGER NOT NULL DEFAULT 0,
    cache_write_5m_tokens INTEGER NOT NULL DEFAULT 0,
    cache_write_1h_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens         INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens      INTEGER NOT NULL DEFAULT 0,
    audio_input_tokens    INTEGER NOT NULL DEFAULT 0,
    audio_output_tokens   INTEGER NOT NULL DEFAULT 0,
    usage_source          TEXT NOT NULL CHECK (usage_source IN ('provider', 'partial', 'estimated', 'none')),
    streamed              INTEGER NOT NULL DEFAULT 0 CHECK (streamed IN (0, 1)),
    ttfb_ms               INTEGER,
    duration_ms           INTEGER NOT NULL,
    bytes_in              INTEGER NOT NULL DEFAULT 0,
    bytes_out             INTEGER NOT NULL DEFAULT 0,
    upstream_request_id   TEXT,
    started_at            INTEGER NOT NULL,
    gateway_id            TEXT NOT NULL
) STRICT;

CREATE INDEX request_ledger_by_time ON request_ledger (started_at, id);
CREATE INDEX request_ledger_by_user ON request_ledger (user_id, started_at, id);

-- Append only. `hash` = HMAC over the entry and the hash before it, with a key made of the master key `key_id`.
CREATE TABLE audit_log (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    at            INTEGER NOT NULL,
    actor_user_id INTEGER,
    actor_name    TEXT NOT NULL,
    tenant_id     INTEGER,
    action        TEXT NOT NULL,
    target        TEXT NOT NULL,
    before        TEXT,
    after         TEXT,
    ip            TEXT NOT NULL,
    request_id    TEXT NOT NULL,
    result        TEXT NOT NULL,
    key_id        TEXT NOT NULL,
    previous_hash TEXT NOT NULL,
    hash          TEXT NOT NULL UNIQUE
) STRICT;

CREATE INDEX audit_log_by_time ON audit_log (at, id);
CREATE INDEX audit_log_by_actor ON audit_log (actor_user_id, id);
CREATE INDEX audit_log_by_action ON audit_log (action, id);

CREATE TRIGGER audit_log_is_append_only_update BEFORE UPDATE ON audit_log
BEGIN
    SELECT RAISE(ABORT, 'audit_log is append only');
END;

CREATE TRIGGER audit_log_is_append_only_delete BEFORE DELETE ON audit_log
BEGIN
    SELECT RAISE(ABORT, 'audit_log is append only');
END;

-- Where the chain ends: the number of its entries and the hash of the last. Locked while an entry is added.
CREATE TABLE audit_head (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    entries INTEGER NOT NULL,
    hash    TEXT NOT NULL
) STRICT;

INSERT INTO audit_head (id, entries, hash) VALUES (1, 0, '');

-- A version says "look again"; it is counted up in the transaction that changes what it stands for.
CREATE TABLE wakeups (
    topic   TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) STRICT;

INSERT INTO wakeups (topic, version) VALUES ('auth', 0), ('keys', 0);
