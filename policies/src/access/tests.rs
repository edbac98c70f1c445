//! The seed's permission table cell by cell, and what surrounds it: tenants, scopes, generated passwords.

use std::collections::HashSet;

use super::*;

const HERE: TenantId = TenantId(1);
const ELSEWHERE: TenantId = TenantId(2);
const ALICE: UserId = UserId(10);
const BOB: UserId = UserId(11);

fn user() -> Actor {
    Actor {
        user: ALICE,
        username: "alice".to_owned(),
        tenant: HERE,
        role: Role::User,
        must_change_password: false,
        scopes: None,
    }
}

fn admin() -> Actor {
    Actor {
        role: Role::Admin,
        ..user()
    }
}

/// Something on a machine of this tenant: the actor's permission there, and whose it is.
fn on_machine(machine: Option<MachinePermission>, owner: Option<UserId>) -> Standing {
    Standing {
        tenant: Some(HERE),
        owner,
        machine,
    }
}

#[track_caller]
fn check(actor: &Actor, action: Action, standing: Standing, expected: Result<(), Denied>) {
    assert_eq!(
        super::check(actor, action, &standing).map(|_| ()),
        expected,
        "{actor:?} {action} {standing:?}"
    );
}

/// One row of the seed's table: what system admin, machine admin and regular user may; `owner` is whose the thing is.
#[track_caller]
fn row(action: Action, owner: Option<UserId>, machine_admin: Result<(), Denied>, regular: Result<(), Denied>) {
    check(&admin(), action, on_machine(None, owner), Ok(()));
    check(
        &user(),
        action,
        on_machine(Some(MachinePermission::Admin), owner),
        machine_admin,
    );
    check(
        &user(),
        action,
        on_machine(Some(MachinePermission::User), owner),
        regular,
    );
}

#[test]
fn the_seeds_permission_table() {
    let system_admin_only = Err(Denied::SystemAdminOnly);
    // Create session
    row(Action::SessionsCreate, None, Ok(()), Ok(()));
    // Manage own sessions; view and stop others' sessions on this machine
    for action in SESSION_ACTS {
        row(action, Some(ALICE), Ok(()), Ok(()));
        row(action, Some(BOB), Ok(()), Err(Denied::SessionNotFound));
    }
    row(
        Action::MachinesListSessions,
        None,
        Ok(()),
        Err(Denied::MachineAdminOnly),
    );
    // Browse machine files
    row(Action::MachinesBrowse, None, Ok(()), Ok(()));
    // Assign and revoke users on this machine
    row(Action::AssignmentsCreate, None, Ok(()), Err(Denied::MachineAdminOnly));
    row(Action::AssignmentsRevoke, None, Ok(()), Err(Denied::MachineAdminOnly));
    row(Action::MachinesListUsers, None, Ok(()), Err(Denied::MachineAdminOnly));
    row(
        Action::AssignmentsRevokeAdmin,
        None,
        Err(Denied::MachineAdminProtected),
        Err(Denied::MachineAdminOnly),
    );
    // Unregister machine
    row(Action::MachinesDelete, None, system_admin_only, system_admin_only);
    // Generate registration token
    row(Action::MachinesRegister, None, system_admin_only, system_admin_only);
    // Manage API keys
    for action in [
        Action::ApiKeysList,
        Action::ApiKeysCreate,
        Action::ApiKeysUpdate,
        Action::ApiKeysDelete,
        Action::ApiKeysTest,
    ] {
        row(action, None, system_admin_only, system_admin_only);
    }
}

const SESSION_ACTS: [Action; 11] = [
    Action::SessionsRead,
    Action::SessionsChat,
    Action::SessionsStop,
    Action::SessionsPause,
    Action::SessionsResume,
    Action::SessionsAbort,
    Action::SessionsSetModel,
    Action::SessionsSetPermissionMode,
    Action::SessionsAnswerApproval,
    Action::SessionsUpdate,
    Action::SessionsDelete,
];

#[test]
fn who_is_not_assigned_does_not_learn_of_machine_or_session() {
    let stranger = on_machine(None, Some(BOB));
    check(&user(), Action::MachinesRead, stranger, Err(Denied::MachineNotFound));
    check(&user(), Action::MachinesBrowse, stranger, Err(Denied::MachineNotFound));
    check(&user(), Action::SessionsRead, stranger, Err(Denied::SessionNotFound));
    check(&user(), Action::SessionsCreate, stranger, Err(Denied::NotAssigned));
    for action in [
        Action::AssignmentsCreate,
        Action::AssignmentsRevoke,
        Action::AssignmentsRevokeAdmin,
        Action::MachinesListUsers,
        Action::MachinesListSessions,
    ] {
        check(&user(), action, stranger, Err(Denied::MachineNotFound));
    }
}

#[test]
fn a_machine_admin_grants_user_whatever_is_asked() {
    let standing = on_machine(Some(MachinePermission::Admin), None);
    let by_machine_admin = super::check(&user(), Action::AssignmentsCreate, &standing).unwrap();
    assert_eq!(
        by_machine_admin.grantable(MachinePermission::Admin),
        MachinePermission::User
    );
    let by_admin = super::check(&admin(), Action::AssignmentsCreate, &standing).unwrap();
    assert_eq!(by_admin.grantable(MachinePermission::Admin), MachinePermission::Admin);
    assert_eq!(by_admin.grantable(MachinePermission::User), MachinePermission::User);
}

#[test]
fn nothing_crosses_tenants_but_a_system_admin() {
    let elsewhere = Standing {
        tenant: Some(ELSEWHERE),
        owner: Some(ALICE),
        machine: Some(MachinePermission::Admin),
    };
    for action in Action::ALL.iter().copied() {
        check(&admin(), action, elsewhere, Ok(()));
        if action.rule() != Rule::Anyone {
            let found = super::check(&user(), action, &elsewhere).map(|_| ());
            assert!(found.is_err(), "{action} reached into another tenant");
        }
    }
}

#[test]
fn what_was_not_looked_up_allows_nothing() {
    for action in Action::ALL.iter().copied() {
        let found = super::check(&user(), action, &Standing::default());
        assert_eq!(found.is_ok(), action.rule() == Rule::Anyone, "{action}");
    }
    let without_tenant = Standing {
        tenant: None,
        owner: Some(ALICE),
        machine: Some(MachinePermission::Admin),
    };
    check(
        &user(),
        Action::SessionsRead,
        without_tenant,
        Err(Denied::SessionNotFound),
    );
    check(
        &user(),
        Action::MachinesBrowse,
        without_tenant,
        Err(Denied::MachineNotFound),
    );
}

#[test]
fn ones_own_quota_and_tokens_need_no_admin() {
    let of = |owner| Standing {
        owner: Some(owner),
        ..Standing::default()
    };
    for action in [
        Action::QuotaRead,
        Action::UsageRead,
        Action::RequestsRead,
        Action::PersonalTokensRevoke,
    ] {
        check(&user(), action, of(ALICE), Ok(()));
        check(&user(), action, of(BOB), Err(Denied::NotFound));
        check(&admin(), action, of(BOB), Ok(()));
    }
    check(&user(), Action::AuditRead, of(ALICE), Err(Denied::SystemAdminOnly));
}

#[test]
fn trap_33_a_generated_password_must_be_changed_before_anything_else() {
    let fresh = Actor {
        must_change_password: true,
        ..admin()
    };
    let open: Vec<&str> = Action::ALL
        .iter()
        .filter(|action| super::check(&fresh, **action, &Standing::default()).is_ok())
        .map(|action| action.name())
        .collect();
    assert_eq!(
        open,
        ["account.read", "account.change_password", "account.logout", "meta.read"]
    );
    check(
        &fresh,
        Action::ApiKeysCreate,
        Standing::default(),
        Err(Denied::PasswordChangeRequired),
    );
}

#[test]
fn a_scope_narrows_and_never_widens() {
    let with = |actor: Actor, scopes: &[Scope]| Actor {
        scopes: Some(scopes.to_vec()),
        ..actor
    };
    let own = on_machine(Some(MachinePermission::User), Some(ALICE));
    let missing = |scope| Err(Denied::ScopeMissing(scope));
    check(&with(user(), &[Scope::Read]), Action::SessionsRead, own, Ok(()));
    check(
        &with(user(), &[Scope::Read]),
        Action::SessionsChat,
        own,
        missing(Scope::Write),
    );
    check(&with(user(), &[Scope::Write]), Action::SessionsChat, own, Ok(()));
    check(&with(user(), &[Scope::Write]), Action::SessionsRead, own, Ok(()));
    check(
        &with(user(), &[Scope::Write]),
        Action::ProxyTokensCreate,
        own,
        missing(Scope::Llm),
    );
    check(&with(user(), &[Scope::Llm]), Action::ProxyTokensCreate, own, Ok(()));
    check(
        &with(user(), &[Scope::Llm]),
        Action::SessionsRead,
        own,
        missing(Scope::Read),
    );
    check(&with(user(), &[]), Action::SessionsRead, own, missing(Scope::Read));
    check(
        &with(admin(), &[Scope::Read, Scope::Write]),
        Action::ApiKeysCreate,
        own,
        missing(Scope::Full),
    );
    check(&with(admin(), &[Scope::Full]), Action::ApiKeysCreate, own, Ok(()));
    check(
        &with(user(), &[Scope::Full]),
        Action::ApiKeysCreate,
        own,
        Err(Denied::SystemAdminOnly),
    );
    // A token that could make tokens would have every scope.
    check(
        &with(user(), &[Scope::Write, Scope::Llm]),
        Action::PersonalTokensCreate,
        own,
        missing(Scope::Full),
    );
}

#[test]
fn a_permit_says_who_and_what() {
    let permit = super::check(&admin(), Action::ApiKeysCreate, &Standing::default()).unwrap();
    assert_eq!(
        (permit.actor().user, permit.action().name()),
        (ALICE, "api_keys.create")
    );
}

#[test]
fn acts_have_names_of_their_own_and_reads_change_nothing() {
    let names: HashSet<&str> = Action::ALL.iter().map(|action| action.name()).collect();
    assert_eq!(names.len(), Action::ALL.len());
    for action in Action::ALL {
        let reads = [".read", ".list", ".browse", ".list_users", ".list_sessions", "explain"];
        let read = reads.iter().any(|ending| action.name().ends_with(ending));
        assert_eq!(action.changes(), !read, "{action}");
    }
}

#[test]
fn names_are_the_same_in_text_and_json() {
    for role in Role::ALL {
        assert_eq!(role.to_string().parse(), Ok(*role));
    }
    for scope in Scope::ALL {
        assert_eq!(serde_json::to_string(scope).unwrap(), format!("\"{scope}\""));
    }
    assert_eq!(
        "owner".parse::<MachinePermission>().unwrap_err().to_string(),
        "unknown machine permission 'owner'"
    );
    assert_eq!(
        serde_json::to_string(&Action::ApiKeysCreate).unwrap(),
        "\"api_keys.create\""
    );
}

#[test]
fn every_denial_has_a_code_and_a_status() {
    let all = [
        (Denied::PasswordChangeRequired, "password_change_required", 403),
        (Denied::ScopeMissing(Scope::Write), "scope_missing", 403),
        (Denied::SystemAdminOnly, "system_admin_only", 403),
        (Denied::MachineAdminOnly, "machine_admin_only", 403),
        (Denied::MachineAdminProtected, "machine_admin_protected", 403),
        (Denied::NotAssigned, "not_assigned", 400),
        (Denied::MachineNotFound, "machine_not_found", 404),
        (Denied::SessionNotFound, "session_not_found", 404),
        (Denied::NotFound, "not_found", 404),
    ];
    for (denied, code, status) in all {
        assert_eq!((denied.code(), denied.status()), (code, status));
        assert!(!denied.to_string().is_empty());
    }
}
