-- The days of `usage_daily` by the fortnight in which they begin (`policies::quota::fortnight`), kept by the same transactions: a sum over
-- a year reads a tenth of the rows. No months, which begin elsewhere in each time zone: a day belongs to one fortnight whatever the time
-- zone is, or was.
CREATE TABLE usage_fortnights (
    fortnight_start       BIGINT NOT NULL,
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
    PRIMARY KEY (fortnight_start, model, provider, api_key_id, user_id, machine_id, tenant_id)
);

CREATE INDEX usage_fortnights_by_user ON usage_fortnights (user_id, fortnight_start);

INSERT INTO usage_fortnights (fortnight_start, tenant_id, user_id, machine_id, provider, api_key_id, model, requests, errors, estimated,
                              input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
                              reasoning_tokens, audio_input_tokens, audio_output_tokens, cost_micro_usd, ttfb_ms, duration_ms)
SELECT day_start - day_start % 1209600000,
       tenant_id, user_id, machine_id, provider, api_key_id, model,
       CAST(SUM(requests) AS BIGINT), CAST(SUM(errors) AS BIGINT), CAST(SUM(estimated) AS BIGINT), CAST(SUM(input_tokens) AS BIGINT),
       CAST(SUM(cache_read_tokens) AS BIGINT), CAST(SUM(cache_write_5m_tokens) AS BIGINT), CAST(SUM(cache_write_1h_tokens) AS BIGINT),
       CAST(SUM(output_tokens) AS BIGINT), CAST(SUM(reasoning_tokens) AS BIGINT), CAST(SUM(audio_input_tokens) AS BIGINT),
       CAST(SUM(audio_output_tokens) AS BIGINT), CAST(SUM(cost_micro_usd) AS BIGINT), CAST(SUM(ttfb_ms) AS BIGINT),
       CAST(SUM(duration_ms) AS BIGINT)
FROM usage_daily
GROUP BY day_start - day_start % 1209600000, tenant_id, user_id, machine_id, provider, api_key_id, model;
