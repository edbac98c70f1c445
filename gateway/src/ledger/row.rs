//! A row of the ledger, and what it is charged to.

use std::sync::Arc;

use ace_policies::quota::{Account, Amounts, Day};
use ace_policies::token::Claims;
use ace_policies::usage::{Source, Usage};
use ace_policies::{KeyId, Provider};
use http::Method;
use uuid::Uuid;

use super::charge::Charge;
use super::journal::{Opened, Settled, SettledSeat};

/// The `error_kind` of a request whose gateway died before it was settled.
pub const LOST: &str = "gateway_lost";
/// Every `error_kind` that a journal may hold.
const ERROR_KINDS: &[&str] = &[
    LOST,
    "auth_error",
    "client_gone",
    "config_error",
    "incomplete",
    "invalid_request_error",
    "ledger_stopped",
    "permission_error",
    "provider_error",
    "quota_exceeded",
    "quota_stopped",
    "rate_limit_error",
    "request_too_large",
    "revoked",
    "stopped",
    "unavailable",
    "upstream_error",
    "upstream_malformed",
    "upstream_reset",
    "upstream_timeout",
];

/// What is known of a request, filled in as it goes on.
#[derive(Clone)]
pub struct Entry {
    /// The request's id, the row's identity.
    pub request_id: Uuid,
    /// Who called: user, tenant, session, machine, tool.
    pub claims: Arc<Claims>,
    /// Whose API was called.
    pub provider: Provider,
    /// The key that it went out with.
    pub key: Option<KeyId>,
    /// Method and path of the request, without its query.
    pub method: Method,
    /// See `method`.
    pub path: String,
    /// Model that was asked for.
    pub model_asked: Option<String>,
    /// Model that answered, by the answer's own word.
    pub model_served: Option<String>,
    /// Status sent to the client; 499 where it left before there was one.
    pub status: u16,
    /// Why it is not a complete answer: a refusal's reason, `client_gone`, `upstream_…`.
    pub error_kind: Option<&'static str>,
    /// Tokens by class.
    pub usage: Usage,
    /// Where the figures come from.
    pub source: Source,
    /// Whether the answer was a stream of events.
    pub streamed: bool,
    /// UTC milliseconds at which the request's head was read.
    pub started_at_ms: i64,
    /// From there to the first byte of the answer.
    pub ttfb_ms: Option<u64>,
    /// From there to the end.
    pub duration_ms: u64,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// The id under which the provider knows the request.
    pub upstream_request_id: Option<String>,
    /// The provider's service tier, by the answer's own word.
    pub service_tier: Option<String>,
    /// What it costs, and by which price.
    pub cost_micro_usd: u64,
    /// See `cost_micro_usd`.
    pub price: Option<String>,
    /// 1 where a provider answered it, or used tokens for it.
    pub charged_requests: u64,
    /// The day and month that it is charged to.
    pub day: Day,
}

impl Entry {
    /// A request of which nothing is known but who called. Until there is another, its end is that the client left before there was an
    /// answer.
    pub fn new(request_id: Uuid, claims: Arc<Claims>, provider: Provider, started_at_ms: i64) -> Self {
        Self {
            request_id,
            claims,
            provider,
            key: None,
            method: Method::GET,
            path: String::new(),
            model_asked: None,
            model_served: None,
            status: 499,
            error_kind: Some("client_gone"),
            usage: Usage::default(),
            source: Source::None,
            streamed: false,
            started_at_ms,
            ttfb_ms: None,
            duration_ms: 0,
            bytes_in: 0,
            bytes_out: 0,
            upstream_request_id: None,
            service_tier: None,
            cost_micro_usd: 0,
            price: None,
            charged_requests: 0,
            day: Day::default(),
        }
    }

    /// Whom it is charged to: user, tenant, session, machine, provider key.
    pub fn accounts(&self) -> [Option<Account>; 5] {
        [
            Some(Account::User(self.claims.user)),
            Some(Account::Tenant(self.claims.tenant)),
            self.claims.session.map(Account::Session),
            self.claims.machine.map(Account::Machine),
            self.key.map(Account::ProviderKey),
        ]
    }

    /// What it is charged with.
    pub fn amounts(&self) -> Amounts {
        Amounts {
            tokens: self.usage.total(),
            requests: self.charged_requests,
            cost_micro_usd: self.cost_micro_usd,
        }
    }

    /// What the journal is told when it is admitted, with what is reserved for it.
    pub fn opened<'e>(&'e self, estimate: Usage, cost_micro_usd: u64, price: &'e str) -> Opened<&'e str> {
        let claims = &self.claims;
        Opened {
            request_id: self.request_id,
            tenant: claims.tenant,
            user: claims.user,
            session: claims.session,
            machine: claims.machine,
            tool: &claims.tool,
            provider: self.provider,
            key: self.key,
            method: self.method.as_str(),
            path: &self.path,
            model_asked: self.model_asked.as_deref(),
            started_at_ms: self.started_at_ms,
            bytes_in: self.bytes_in,
            streamed: self.streamed,
            day_start_ms: self.day.start_ms,
            month_start_ms: self.day.month_start_ms,
            estimate,
            estimate_cost_micro_usd: cost_micro_usd,
            price: Some(price),
        }
    }

    /// What the journal is told at its end.
    pub fn settled(&self) -> Settled<&str> {
        Settled {
            request_id: self.request_id,
            key: self.key,
            model_served: self.model_served.as_deref(),
            status: self.status,
            error_kind: self.error_kind,
            usage: self.usage,
            source: self.source,
            streamed: self.streamed,
            ttfb_ms: self.ttfb_ms,
            duration_ms: self.duration_ms,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            upstream_request_id: self.upstream_request_id.as_deref(),
            cost_micro_usd: self.cost_micro_usd,
            price: self.price.as_deref(),
            service_tier: self.service_tier.as_deref(),
            charged_requests: self.charged_requests,
        }
    }

    /// The entry of a request whose gateway died: charged with what was reserved for it.
    pub fn lost(opened: &Opened) -> Self {
        let claims = Claims {
            session: opened.session,
            user: opened.user,
            tenant: opened.tenant,
            machine: opened.machine,
            provider: Some(opened.provider),
            tool: opened.tool.clone(),
            models: None,
            iat: 0,
            exp: 0,
            jti: Uuid::nil(),
            generation: 0,
        };
        Self {
            key: opened.key,
            method: opened.method.parse().unwrap_or_default(),
            path: opened.path.clone(),
            model_asked: opened.model_asked.clone(),
            error_kind: Some(LOST),
            usage: opened.estimate,
            source: Source::Estimated,
            streamed: opened.streamed,
            bytes_in: opened.bytes_in,
            cost_micro_usd: opened.estimate_cost_micro_usd,
            price: opened.price.clone(),
            charged_requests: 1,
            day: Day {
                start_ms: opened.day_start_ms,
                month_start_ms: opened.month_start_ms,
                ..Day::default()
            },
            ..Self::new(
                opened.request_id,
                Arc::new(claims),
                opened.provider,
                opened.started_at_ms,
            )
        }
    }

    /// The entry of a request that the journal has whole.
    pub fn of(opened: &Opened, settled: &Settled) -> Self {
        let kind = |kind: &str| {
            ERROR_KINDS
                .iter()
                .copied()
                .find(|known| *known == kind)
                .unwrap_or("unknown")
        };
        Self {
            key: settled.key,
            model_served: settled.model_served.clone(),
            status: settled.status,
            error_kind: settled.error_kind.as_deref().map(kind),
            usage: settled.usage,
            source: settled.source,
            streamed: settled.streamed,
            ttfb_ms: settled.ttfb_ms,
            duration_ms: settled.duration_ms,
            bytes_in: settled.bytes_in,
            bytes_out: settled.bytes_out,
            upstream_request_id: settled.upstream_request_id.clone(),
            service_tier: settled.service_tier.clone(),
            cost_micro_usd: settled.cost_micro_usd,
            price: settled.price.clone(),
            charged_requests: settled.charged_requests,
            ..Self::lost(opened)
        }
    }

    /// The model under which it is summed up. What was asked for and not served is not: a client may ask for anything.
    pub fn model(&self) -> &str {
        let asked = self.model_asked.as_deref().filter(|_| self.charged_requests > 0);
        self.model_served.as_deref().or(asked).unwrap_or_default()
    }
}

/// An entry on its way to the database.
pub struct Row {
    /// What is to be written.
    pub entry: Box<Entry>,
    /// The buckets whose leases cover it.
    pub charges: Vec<Charge>,
    /// Where the journal has it.
    pub seat: Option<SettledSeat>,
}
