-- Nothing was ever written to the first form of this table.
DROP TABLE quota_usage;

-- What an account has used in a period, and what gateways hold of the rest. Written only by the gateway.
-- settled + leased never passes a limit. Periods: `minute`, `day` and `month` begin at `period_start` (UTC milliseconds, days and months
-- in the configured time zone); `open` is no time but what runs at once, and begins at 0. Minutes and `open` settle nothing: what is
-- leased is what may be used.
CREATE TABLE quota_usage (
    account_kind          TEXT NOT NULL CHECK (account_kind IN ('user', 'tenant', 'session', 'machine', 'api_key')),
    account_id            TEXT NOT NULL,
    period                TEXT NOT NULL CHECK (period IN ('minute', 'day', 'month', 'open')),
    period_start          BIGINT NOT NULL,
    tokens                BIGINT NOT NULL DEFAULT 0 CHECK (tokens >= 0),
    requests              BIGINT NOT NULL DEFAULT 0 CHECK (requests >= 0),
    cost_micro_usd        BIGINT NOT NULL DEFAULT 0 CHECK (cost_micro_usd >= 0),
    leased_tokens         BIGINT NOT NULL DEFAULT 0 CHECK (leased_tokens >= 0),
    leased_requests       BIGINT NOT NULL DEFAULT 0 CHECK (leased_requests >= 0),
    leased_cost_micro_usd BIGINT NOT NULL DEFAULT 0 CHECK (leased_cost_micro_usd >= 0),
    updated_at            BIGINT NOT NULL,
    PRIMARY KEY (account_kind, account_id, period, period_start)
);

CREATE INDEX quota_usage_by_period ON quota_usage (period, period_start);

-- Written only by the control API. No row is no limit; 0 blocks.
CREATE TABLE quota_limits (
    account_kind TEXT NOT NULL CHECK (account_kind IN ('user', 'tenant', 'session', 'machine', 'api_key')),
    account_id   TEXT NOT NULL,
    -- `tokens_per_day` and so on: `policies::quota::LimitName`.
    name         TEXT NOT NULL,
    maximum      BIGINT NOT NULL CHECK (maximum >= 0),
    -- Decided and told, but nothing is refused.
    dry_run      INTEGER NOT NULL DEFAULT 0 CHECK (dry_run IN (0, 1)),
    updated_at   BIGINT NOT NULL,
    PRIMARY KEY (account_kind, account_id, name)
);

-- The running processes that hold leases; a row whose time is over is of a dead one. Written only by the gateway, as are the rest.
CREATE TABLE ledger_instances (
    instance_id TEXT PRIMARY KEY,
    gateway_id  TEXT NOT NULL,
    started_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL
);

-- What of `quota_usage.leased_…` belongs to whom.
CREATE TABLE quota_leases (
    instance_id    TEXT NOT NULL,
    account_kind   TEXT NOT NULL,
    account_id     TEXT NOT NULL,
    period         TEXT NOT NULL,
    period_start   BIGINT NOT NULL,
    tokens         BIGINT NOT NULL CHECK (tokens >= 0),
    requests       BIGINT NOT NULL CHECK (requests >= 0),
    cost_micro_usd BIGINT NOT NULL CHECK (cost_micro_usd >= 0),
    PRIMARY KEY (instance_id, account_kind, account_id, period, period_start)
);

-- Admitted requests that are under way for longer than a moment: what is charged when their gateway and its journal are gone.
CREATE TABLE open_requests (
    request_id  TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL,
    -- The request's ledger row with its reservation as the figures, JSON.
    opened      TEXT NOT NULL
);

CREATE INDEX open_requests_by_instance ON open_requests (instance_id);

-- A soft threshold that was passed, once for each period.
CREATE TABLE quota_events (
    id           BIGSERIAL PRIMARY KEY,
    at           BIGINT NOT NULL,
    account_kind TEXT NOT NULL,
    account_id   TEXT NOT NULL,
    limit_name   TEXT NOT NULL,
    period_start BIGINT NOT NULL,
    percent      BIGINT NOT NULL,
    used         BIGINT NOT NULL,
    maximum      BIGINT NOT NULL,
    dry_run      INTEGER NOT NULL DEFAULT 0,
    UNIQUE (account_kind, account_id, limit_name, period_start, percent, maximum)
);

CREATE INDEX quota_events_by_time ON quota_events (at, id);

-- Sums of the ledger, kept by the same transactions. Absent: '' and 0. In the keys, what there are many of comes last.
CREATE TABLE usage_hourly (
    hour_start            BIGINT NOT NULL,
    tenant_id             BIGINT NOT NULL,
    user_id               BIGINT NOT NULL,
    machine_id            TEXT NOT NULL,
    provider              TEXT NOT NULL,
    api_key_id            BIGINT NOT NULL,
    model                 TEXT NOT NULL,
    requests              BIGINT NOT NULL,
    errors                BIGINT NOT NULL,
    estimated             BIGINT NOT NULL,
    input_tokens          BIGINT NOT NULL,
    cache_read_tokens     BIGINT NOT NULL,
    cache_write_5m_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    output_tokens         BIGINT NOT NULL,
    reasoning_tokens      BIGINT NOT NULL,
    audio_input_tokens    BIGINT NOT NULL,
    audio_output_tokens   BIGINT NOT NULL,
    cost_micro_usd        BIGINT NOT NULL,
    ttfb_ms               BIGINT NOT NULL,
    duration_ms           BIGINT NOT NULL,
    PRIMARY KEY (hour_start, model, provider, api_key_id, user_id, machine_id, tenant_id)
);

CREATE INDEX usage_hourly_by_user ON usage_hourly (user_id, hour_start);

CREATE TABLE usage_daily (
    day_start             BIGINT NOT NULL,
    tenant_id             BIGINT NOT NULL,
    user_id               BIGINT NOT NULL,
    machine_id            TEXT NOT NULL,
    provider              TEXT NOT NULL,
    api_key_id            BIGINT NOT NULL,
    model                 TEXT NOT NULL,
    requests              BIGINT NOT NULL,
    errors                BIGINT NOT NULL,
    estimated             BIGINT NOT NULL,
    input_tokens          BIGINT NOT NULL,
    cache_read_tokens     BIGINT NOT NULL,
    cache_write_5m_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    output_tokens         BIGINT NOT NULL,
    reasoning_tokens      BIGINT NOT NULL,
    audio_input_tokens    BIGINT NOT NULL,
    audio_output_tokens   BIGINT NOT NULL,
    cost_micro_usd        BIGINT NOT NULL,
    ttfb_ms               BIGINT NOT NULL,
    duration_ms           BIGINT NOT NULL,
    PRIMARY KEY (day_start, model, provider, api_key_id, user_id, machine_id, tenant_id)
);

CREATE INDEX usage_daily_by_user ON usage_daily (user_id, day_start);

-- The same by session: apart, because there are many times as many of them as of anything else. The total of a session is one read of
-- its key. Requests of none are in it too, under ''.
CREATE TABLE usage_sessions (
    session_id            TEXT NOT NULL,
    day_start             BIGINT NOT NULL,
    tenant_id             BIGINT NOT NULL,
    user_id               BIGINT NOT NULL,
    machine_id            TEXT NOT NULL,
    provider              TEXT NOT NULL,
    api_key_id            BIGINT NOT NULL,
    model                 TEXT NOT NULL,
    requests              BIGINT NOT NULL,
    errors                BIGINT NOT NULL,
    estimated             BIGINT NOT NULL,
    input_tokens          BIGINT NOT NULL,
    cache_read_tokens     BIGINT NOT NULL,
    cache_write_5m_tokens BIGINT NOT NULL,
    cache_write_1h_tokens BIGINT NOT NULL,
    output_tokens         BIGINT NOT NULL,
    reasoning_tokens      BIGINT NOT NULL,
    audio_input_tokens    BIGINT NOT NULL,
    audio_output_tokens   BIGINT NOT NULL,
    cost_micro_usd        BIGINT NOT NULL,
    ttfb_ms               BIGINT NOT NULL,
    duration_ms           BIGINT NOT NULL,
    PRIMARY KEY (session_id, day_start, model, provider, api_key_id, user_id, machine_id, tenant_id)
);

CREATE INDEX usage_sessions_by_user ON usage_sessions (user_id, day_start);
CREATE INDEX usage_sessions_by_day ON usage_sessions (day_start);

-- What the request is charged with, by which price, and to which day and month.
ALTER TABLE request_ledger ADD COLUMN cost_micro_usd BIGINT NOT NULL DEFAULT 0;
ALTER TABLE request_ledger ADD COLUMN price TEXT;
ALTER TABLE request_ledger ADD COLUMN service_tier TEXT;
-- 0 where it never reached a provider, or came back as an error that cost nothing.
ALTER TABLE request_ledger ADD COLUMN charged_requests BIGINT NOT NULL DEFAULT 0;
-- 0: written before there were sums.
ALTER TABLE request_ledger ADD COLUMN day_start BIGINT NOT NULL DEFAULT 0;
ALTER TABLE request_ledger ADD COLUMN month_start BIGINT NOT NULL DEFAULT 0;

CREATE INDEX request_ledger_by_session ON request_ledger (session_id, started_at, id);

INSERT INTO wakeups (topic, version) VALUES ('quota', 0);
