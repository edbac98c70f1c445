//! Whether every limit of every account that the request is charged to has room.

use ace_policies::KeyId;
use ace_policies::quota::{Account, LimitName, Period};
use serde_json::json;

use super::Check;
use super::who::Who;
use crate::App;
use crate::error::ApiError;
use crate::quotas::{LimitState, states};

pub(super) async fn ask(app: &App, who: &Who, key: Option<KeyId>, checks: &mut Vec<Check>) -> Result<(), ApiError> {
    let accounts = [
        Some(Account::User(who.user)),
        Some(Account::Tenant(who.tenant)),
        key.map(Account::ProviderKey),
        who.session.map(Account::Session),
        who.machine.map(Account::Machine),
    ];
    let before = checks.len();
    let mut connection = app.db().read.acquire().await?;
    for account in accounts.into_iter().flatten() {
        let states = states(&mut connection, account, &app.config().calendar, app.now()).await?;
        let set = states.iter().filter(|state| state.maximum.is_some());
        checks.extend(set.map(|state| judge(account, state)));
    }
    if checks.len() == before {
        checks.push(Check::yes("limit", "nothing is limited"));
    }
    Ok(())
}

fn judge(account: Account, state: &LimitState) -> Check {
    let (words, maximum) = (state.name.words(), state.maximum.unwrap_or_default());
    // Of minutes and parallel requests all that is taken is in `reserved`.
    let taken = match state.name.period().is_settled() {
        true => state.used,
        false => state.reserved,
    };
    let left = state.remaining.unwrap_or_default();
    let check = if state.dry_run {
        Check::yes("limit", format!("{words} of {account}: a dry run, nothing is refused"))
    } else if taken >= maximum {
        Check::no(
            "limit",
            status(state.name),
            format!("{words} of {account} are used up: {taken} of {maximum}"),
        )
    } else if left == 0 {
        let reason =
            format!("{words} of {account}: what is left is held for requests that run; one more may be refused");
        Check::yes("limit", reason)
    } else {
        Check::yes("limit", format!("{words} of {account}: {left} of {maximum} are left"))
    };
    check.with(json!({
        "account_kind": account.kind(),
        "account_id": account.id(),
        "name": state.name,
        "maximum": maximum,
        "used": state.used,
        "reserved": state.reserved,
        "remaining": left,
        "resets_at": state.resets_at,
        "dry_run": state.dry_run,
    }))
}

/// What is over in a moment is 429, what lasts is 402.
fn status(name: LimitName) -> u16 {
    match name.period() {
        Period::Minute | Period::Open => 429,
        Period::Day | Period::Month => 402,
    }
}
