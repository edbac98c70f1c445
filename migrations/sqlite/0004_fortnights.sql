-- The days of `usage_daily` by the fortnight in which they begin (`policies::quota::fortnight`), kept by the same transactions: a sum over
-- a year reads a tenth of the rows. No months, which begin elsewhere in each time zone: a day belongs to one fortnight whatever the time
-- zone is, or was.
CREATE TABLE usage_fortnights (
    fortnight_start       INTEGER NOT NULL,
    tenant_id             INTEGER NOT NULL,
    user_id               INTEGER NOT NULL,
    machine_id            TEXT NOT NULL,
    provider              TEXT NOT NULL,
    api_key_id            INTEGER NOT NULL,
    model                 TEXT NOT NULL,
    requests              INTEGER NOT NULL,
    errors                INTEGER NOT NULL,
    estimated             INTEGER NOT NULL,
    input_tokens          INTEGER NOT NULL,
    cache_read_tokens     INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    output_tokens         INTEGER NOT NULL,
    reasoning_tokens      INTEGER NOT NULL,
    audio_input_tokens    INTEGER NOT NULL,
    audio_output_tokens   INTEGER NOT NULL,
    cost_micro_usd        INTEGER NOT NULL,
    ttfb_ms               INTEGER NOT NULL,
    duration_ms           INTEGER NOT NULL,
    PRIMARY KEY (fortnight_start, model, provider, api_key_id, user_id, machine_id, tenant_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_fortnights_by_user ON usage_fortnights (user_id, fortnight_start);

INSERT INTO usage_fortnights (fortnight_start, tenant_id, user_id, machine_id, provider, api_key_id, model, requests, errors, estimated,
                              input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
                              reasoning_tokens, audio_input_tokens, audio_output_tokens, cost_micro_usd, ttfb_ms, duration_ms)
SELECT day_start - day_start % 1209600000,
       tenant_id, user_id, machine_id, provider, api_key_id, model,
       SUM(requests), SUM(errors), SUM(estimated), SUM(input_tokens), SUM(cache_read_tokens), SUM(cache_write_5m_tokens),
       SUM(cache_write_1h_tokens), SUM(output_tokens), SUM(reasoning_tokens), SUM(audio_input_tokens), SUM(audio_output_tokens),
       SUM(cost_micro_usd), SUM(ttfb_ms), SUM(duration_ms)
FROM usage_daily
GROUP BY day_start - day_start % 1209600000, tenant_id, user_id, machine_id, provider, api_key_id, model;
